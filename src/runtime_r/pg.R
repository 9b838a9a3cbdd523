# What functions see: PL/R's names, with PL/R's meaning.

keywords <- character() # of the database, see Ping

# --- messages -----------------------------------------------------------------------------------------------------

message_fields <- function(message, fields) {
  unknown <- setdiff(names(fields), names(condition_fields))
  if (length(unknown) || length(fields) != sum(nzchar(names(fields)))) {
    stop("unknown field of a message: ", paste(unknown, collapse = ", "))
  }
  texts <- c(M = clean(message), vapply(fields, clean, ""))
  names(texts)[-1L] <- condition_fields[names(fields)]
  texts
}

throw <- function(level, message, fields) {
  texts <- message_fields(message, fields)
  .Call(c_log, level, names(texts), unname(texts))
  invisible(NULL)
}

pg.throwdebug <- function(message, ...) throw(1L, message, list(...))
pg.throwlog <- function(message, ...) throw(2L, message, list(...))
pg.throwinfo <- function(message, ...) throw(3L, message, list(...))
pg.thrownotice <- function(message, ...) throw(4L, message, list(...))
pg.throwwarning <- function(message, ...) throw(5L, message, list(...))

# Raises an error; `...`: detail, hint, schema, table, column, datatype, constraint.
pg.throwerror <- function(message, ..., sqlstate = "38000") {
  if (!is_sqlstate(sqlstate)) stop("invalid SQLSTATE")
  fields <- list(...)
  message_fields(message, fields)
  stop(new_condition(clean(message), sqlstate, fields, call = sys.call()))
}

# --- quoting --------------------------------------------------------------------------------------------------------

pg.quoteliteral <- function(sql) {
  text <- as.character(sql)[[1L]]
  escaped <- gsub("\\", "\\\\", gsub("'", "''", text, fixed = TRUE), fixed = TRUE)
  paste0(if (grepl("\\", text, fixed = TRUE)) "E", "'", escaped, "'")
}

pg.quoteident <- function(name) {
  text <- as.character(name)[[1L]]
  if (grepl("^[a-z_][a-z0-9_]*$", text) && !text %in% keywords) {
    return(text)
  }
  paste0("\"", gsub("\"", "\"\"", text, fixed = TRUE), "\"")
}

# --- SQL --------------------------------------------------------------------------------------------------------------

as_query <- function(sql) {
  sql <- paste(as.character(sql), collapse = "\n")
  if (is.na(sql) || sql == "") stop("cannot execute an empty query")
  sql
}

# Rows as a data frame, NULL where there are none; for other statements the number of rows, as text.
outcome <- function(answer) {
  frame <- answer[[3L]]
  if (is.null(frame)) {
    return(format(answer[[2L]], scientific = FALSE))
  }
  if (nrow(frame) > 0L) frame
}

pg.spi.exec <- function(sql) outcome(.Call(c_execute, as_query(sql), 0))

# `types`: numbers such as INT4OID, or names of types.
pg.spi.prepare <- function(sql, types = NA) {
  structure(list(plan = .Call(c_prepare, as_query(sql), type_names(types))), class = "pg_plan")
}

plan_pointer <- function(plan) if (inherits(plan, "pg_plan")) unclass(plan)$plan

plan_values <- function(values) if (is.list(values)) values else if (length(values) == 1L && is.na(values)) list() else as.list(values)

pg.spi.execp <- function(plan, args = NA) {
  outcome(.Call(c_execute_plan, plan_pointer(plan), plan_values(args), 0))
}

# The database chooses the name of the cursor.
pg.spi.cursor_open <- function(cursor_name, plan, args = NA) {
  structure(list(name = .Call(c_open_plan, plan_pointer(plan), plan_values(args))), class = "pg_cursor")
}

cursor_name <- function(cursor) {
  if (!inherits(cursor, "pg_cursor")) fail("34000", "this is no cursor")
  unclass(cursor)$name
}

pg.spi.cursor_fetch <- function(cursor, forward, rows) {
  name <- cursor_name(cursor)
  rows <- as.numeric(rows)
  if (!forward) {
    return(outcome(.Call(c_execute, sprintf("fetch backward %.0f from %s", rows, pg.quoteident(name)), 0)))
  }
  if (rows > 0) outcome(.Call(c_fetch, name, rows))
}

pg.spi.cursor_move <- function(cursor, forward, rows) {
  direction <- if (forward) "forward" else "backward"
  .Call(c_execute, sprintf("move %s %.0f from %s", direction, as.numeric(rows), pg.quoteident(cursor_name(cursor))), 0)
  invisible(NULL)
}

pg.spi.cursor_close <- function(cursor) invisible(.Call(c_close, cursor_name(cursor)))

# Rows have had no oids since PostgreSQL 12.
pg.spi.lastoid <- function() 0

pg.spi.commit <- function() invisible(.Call(c_end_transaction, 8L))
pg.spi.rollback <- function() invisible(.Call(c_end_transaction, 9L))

# Evaluates an expression in a subtransaction, which an error rolls back.
pg.spi.subtransaction <- function(expr) {
  done <- FALSE
  .Call(c_subtransaction, 1L)
  on.exit(if (!done) .Call(c_subtransaction, 3L))
  value <- expr
  done <- TRUE
  .Call(c_subtransaction, 2L)
  value
}

# Text columns as factors.
pg.spi.factor <- function(x) {
  x[] <- lapply(x, function(column) if (is.character(column)) factor(column) else column)
  x
}

pg.reval <- function(text) eval(parse(text = text), globalenv())

# --- the DBI of PL/R: scripts that run outside of the database, too ------------------------------------------------------

dbDriver <- function(db_name) NA
dbConnect <- function(drv, user, password, host, dbname, port, tty, options) NA
dbDisconnect <- function(conn) invisible(0)
dbSendQuery <- function(conn, sql) {
  structure(list(name = .Call(c_open, as_query(sql))), class = "pg_cursor")
}
fetch <- function(rs, n) pg.spi.cursor_fetch(rs, TRUE, n)
dbClearResult <- function(rs) pg.spi.cursor_close(rs)
dbGetQuery <- function(conn, sql) pg.spi.exec(sql)
dbReadTable <- function(conn, name) pg.spi.exec(paste("select * from", name))

# --- R's own ----------------------------------------------------------------------------------------------------------------

# The session's sandbox is not a function's to end.
quit <- function(...) stop("a function cannot end R")
q <- quit

public_functions <- function() {
  names <- grep("^(pg\\.|db[A-Z])", ls(environment(public_functions)), value = TRUE)
  mget(c(names, "fetch", "quit", "q"), environment(public_functions))
}
