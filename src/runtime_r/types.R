# PL/R's constants for types (INT4OID, TEXTOID, _INT4OID ...): the numbers that every PostgreSQL has for its own types.

type_numbers <- c(
  bool = 16L, bytea = 17L, char = 18L, name = 19L, int8 = 20L, int2 = 21L, int2vector = 22L, int4 = 23L,
  regproc = 24L, text = 25L, oid = 26L, tid = 27L, xid = 28L, cid = 29L, oidvector = 30L, json = 114L, xml = 142L,
  `_xml` = 143L, pg_node_tree = 194L, `_json` = 199L, `_xid8` = 271L, point = 600L, lseg = 601L, path = 602L,
  box = 603L, polygon = 604L, line = 628L, `_line` = 629L, cidr = 650L, `_cidr` = 651L, float4 = 700L, float8 = 701L,
  circle = 718L, `_circle` = 719L, macaddr8 = 774L, `_macaddr8` = 775L, money = 790L, `_money` = 791L,
  macaddr = 829L, inet = 869L, `_bool` = 1000L, `_bytea` = 1001L, `_char` = 1002L, `_name` = 1003L, `_int2` = 1005L,
  `_int2vector` = 1006L, `_int4` = 1007L, `_regproc` = 1008L, `_text` = 1009L, `_tid` = 1010L, `_xid` = 1011L,
  `_cid` = 1012L, `_oidvector` = 1013L, `_bpchar` = 1014L, `_varchar` = 1015L, `_int8` = 1016L, `_point` = 1017L,
  `_lseg` = 1018L, `_path` = 1019L, `_box` = 1020L, `_float4` = 1021L, `_float8` = 1022L, `_polygon` = 1027L,
  `_oid` = 1028L, aclitem = 1033L, `_aclitem` = 1034L, `_macaddr` = 1040L, `_inet` = 1041L, bpchar = 1042L,
  varchar = 1043L, date = 1082L, time = 1083L, timestamp = 1114L, `_timestamp` = 1115L, `_date` = 1182L,
  `_time` = 1183L, timestamptz = 1184L, `_timestamptz` = 1185L, interval = 1186L, `_interval` = 1187L,
  `_numeric` = 1231L, `_cstring` = 1263L, timetz = 1266L, `_timetz` = 1270L, bit = 1560L, `_bit` = 1561L,
  varbit = 1562L, `_varbit` = 1563L, numeric = 1700L, refcursor = 1790L, `_refcursor` = 2201L, regprocedure = 2202L,
  regoper = 2203L, regoperator = 2204L, regclass = 2205L, regtype = 2206L, `_regprocedure` = 2207L,
  `_regoper` = 2208L, `_regoperator` = 2209L, `_regclass` = 2210L, `_regtype` = 2211L, `_txid_snapshot` = 2949L,
  uuid = 2950L, `_uuid` = 2951L, txid_snapshot = 2970L, pg_lsn = 3220L, `_pg_lsn` = 3221L, tsvector = 3614L,
  tsquery = 3615L, `_tsvector` = 3643L, `_tsquery` = 3645L, regconfig = 3734L, `_regconfig` = 3735L,
  regdictionary = 3769L, `_regdictionary` = 3770L, jsonb = 3802L, `_jsonb` = 3807L, `_int4range` = 3905L,
  `_numrange` = 3907L, `_tsrange` = 3909L, `_tstzrange` = 3911L, `_daterange` = 3913L, `_int8range` = 3927L,
  jsonpath = 4072L, `_jsonpath` = 4073L, regnamespace = 4089L, `_regnamespace` = 4090L, regrole = 4096L,
  `_regrole` = 4097L, regcollation = 4191L, `_regcollation` = 4192L, pg_snapshot = 5038L, `_pg_snapshot` = 5039L,
  xid8 = 5069L, `_int4multirange` = 6150L, `_nummultirange` = 6151L, `_tsmultirange` = 6152L,
  `_tstzmultirange` = 6153L, `_datemultirange` = 6155L, `_int8multirange` = 6157L
)

type_constants <- function() {
  constants <- as.list(type_numbers)
  names(constants) <- paste0(toupper(names(type_numbers)), "OID")
  constants
}

# The names of types for PREPARE: numbers are looked up, names taken as they are.
type_names <- function(types) {
  if (length(types) == 0L || (length(types) == 1L && is.na(types))) {
    return(character())
  }
  if (is.character(types)) {
    return(types)
  }
  vapply(types, type_name, "")
}

type_name <- function(number) {
  if (number %in% type_numbers) {
    return(sprintf("pg_catalog.\"%s\"", names(type_numbers)[match(number, type_numbers)]))
  }
  answer <- .Call(c_execute, sprintf("select pg_catalog.format_type(%.0f, null)", as.numeric(number)), 0)
  answer[[3L]][[1L]][[1L]]
}
