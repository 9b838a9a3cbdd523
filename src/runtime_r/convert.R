# Questions of shape between R's objects and values of the database. The loops are in encode.c.

# Kinds of the protocol that matter here.
kind_text <- 7L
kind_bytea <- 8L
kind_other <- 10L
kind_array <- 16L
kind_composite <- 17L
kind_record <- 18L
whole_kinds <- c(kind_bytea, kind_array, kind_composite, kind_record)

load_integer64 <- function() {
  if (!requireNamespace("bit64", quietly = TRUE)) message("int8 values beyond 2^53 can be handed on only: no bit64")
  NULL
}

# What stands for NULL arguments counts as NULL; see plc_r.c.
is_null <- function(x) .Call(c_is_null, x)

# An object with a class as plain values: text where text is wanted, else what it is made of.
resolve <- function(x, textual) {
  if (is.factor(x)) {
    return(as.character(x))
  }
  if (textual) {
    if (inherits(x, "POSIXt")) {
      shown <- format(as.POSIXct(x), "%Y-%m-%d %H:%M:%OS6%z")
      shown[is.na(x)] <- NA
      return(shown)
    }
    if (inherits(x, "difftime")) {
      units(x) <- "secs"
      return(ifelse(is.na(x), NA, paste(format(unclass(as.vector(x)), scientific = FALSE, trim = TRUE), "seconds")))
    }
    plain <- as.character(x)
  } else {
    plain <- if (inherits(x, "POSIXlt")) as.numeric(as.POSIXct(x)) else unclass(x)
  }
  dim(plain) <- dim(x)
  plain
}

# bytea from anything: as PL/R has it, any object in R's own serialization.
to_bytes <- function(x) if (is.raw(x)) x else serialize(x, NULL)

# --- arrays ---------------------------------------------------------------------------------------------------------

# The elements of an array: a vector with dimensions, or for bytea a list with such.
as_elements <- function(x, kind) {
  if (kind == kind_bytea) {
    return(if (is.raw(x)) list(x) else if (is.list(x)) as.list(x) else lapply(x, function(one) if (!is.na(one)) to_bytes(one)))
  }
  if (is.data.frame(x)) {
    return(frame_elements(x))
  }
  if (inherits(x, "POSIXlt")) {
    return(as.POSIXct(x))
  }
  if (!is.list(x)) fail("42804", sprintf("cannot turn an R object of type \"%s\" into an array", typeof(x)))
  nested_elements(x)
}

# A data frame is a matrix whose columns may be of several kinds: then all are text.
frame_elements <- function(x) {
  columns <- lapply(unclass(x), function(column) if (is.object(column)) resolve(column, TRUE) else column)
  if (any(vapply(columns, is.list, NA))) fail("42804", "cannot turn a data frame with lists in it into an array")
  array(unlist(columns, use.names = FALSE), c(nrow(x), length(columns)))
}

# Lists within a list, or vectors of more than one element in it, are further dimensions.
nested_elements <- function(x) {
  single <- function(one) is.null(one) || (is.atomic(one) && length(one) == 1L && is.null(dim(one)))
  if (all(vapply(x, single, NA))) {
    flat <- lapply(x, function(one) if (is.null(one)) NA else if (is.object(one)) resolve(one, TRUE) else one)
    flat <- unlist(flat, use.names = FALSE)
    return(if (is.null(flat)) logical() else array(flat, if (is.null(dim(x))) length(flat) else dim(x)))
  }
  parts <- lapply(x, function(one) {
    if (is.list(one)) as_elements(one, 0L) else if (is.object(one)) resolve(one, TRUE) else one
  })
  sizes <- lapply(parts, function(part) if (is.null(dim(part))) length(part) else dim(part))
  if (length(unique(sizes)) != 1L) {
    fail("2202E", "multidimensional arrays must have array expressions with matching dimensions")
  }
  whole <- array(unlist(parts, use.names = FALSE), c(sizes[[1L]], length(parts)))
  aperm(whole, c(length(dim(whole)), seq_along(sizes[[1L]])))
}

# --- rows --------------------------------------------------------------------------------------------------------------

# Columns for the rows of a value, by shape = list(kinds, names, composite): list(columns, number of rows). `one`: the
# value is a single row, in which a list has a value for each column.
as_columns <- function(x, shape, one) {
  kinds <- shape[[1L]]
  names <- shape[[2L]]
  if (is.null(x)) {
    return(list(rep(list(logical()), length(kinds)), 0L))
  }
  if (is.factor(x)) x <- as.character(x)
  columns <- if (is.data.frame(x)) {
    as.list(x)
  } else if (length(dim(x)) == 2L) {
    matrix_columns(x)
  } else if (length(dim(x)) > 2L) {
    fail("42804", sprintf("cannot turn an array of %d dimensions into rows", length(dim(x))))
  } else if (!is.vector(x) && !is.object(x)) {
    fail("42804", sprintf("cannot turn an R object of type \"%s\" into rows", typeof(x)))
  } else if (is.list(x) && !is.object(x)) {
    list_columns(x, kinds, names, one, shape[[3L]])
  } else if (one && shape[[3L]]) {
    vector_cells(x)
  } else {
    list(if (kinds[[1L]] == kind_array || kinds[[1L]] == kind_bytea) list(x) else x)
  }
  columns <- pick_columns(columns, names)
  columns <- Map(prepare_column, columns, kinds)
  rows <- if (is.data.frame(x)) nrow(x) else max(0L, lengths(columns))
  list(recycle(columns, rows), rows)
}

# Each element of a vector is the cell of a column.
vector_cells <- function(x) {
  cells <- lapply(seq_along(x), function(i) unname(x[i]))
  names(cells) <- names(x)
  cells
}

matrix_columns <- function(x) {
  columns <- lapply(seq_len(ncol(x)), function(j) x[, j])
  names(columns) <- colnames(x)
  columns
}

list_columns <- function(x, kinds, names, one, composite) {
  if (one) {
    return(lapply(x, list))
  }
  is_row <- function(row) is.list(row) || is.null(row)
  if (composite && length(x) && all(vapply(x, is_row, NA))) {
    return(rows_to_columns(x, names))
  }
  if (!composite) {
    return(list(x))
  }
  # A list of columns. What holds whole values has to be a list of them.
  wrap <- function(column, kind) if (kind %in% whole_kinds && !is.list(column)) list(column) else column
  if (length(x) == length(kinds)) {
    wrapped <- Map(wrap, x, kinds)
    names(wrapped) <- names(x)
    wrapped
  } else {
    x
  }
}

# A list of rows, each a list or a data frame of one row.
rows_to_columns <- function(x, names) {
  cells <- lapply(x, function(row) {
    if (is.null(row)) {
      return(rep(list(NULL), length(names)))
    }
    # A data frame has lists where its cells are whole values.
    cells <- if (is.data.frame(row)) lapply(row, function(column) column[[1L]]) else as.list(row)
    pick_columns(cells, names)
  })
  lapply(seq_along(names), function(i) lapply(cells, function(row) row[[i]]))
}

# By their names where all are there, otherwise by position, as PL/R has it.
pick_columns <- function(columns, names) {
  given <- names(columns)
  if (!is.null(given) && !anyDuplicated(given) && all(names %in% given)) {
    return(unname(columns[names]))
  }
  if (length(columns) != length(names)) {
    fail("42804", sprintf("R function returned %d columns where %d are expected", length(columns), length(names)))
  }
  unname(columns)
}

# A column as encode_cell() wants it: a list of whole values, or a vector without a class.
prepare_column <- function(column, kind) {
  if (kind %in% whole_kinds) {
    if (is.data.frame(column)) {
      return(lapply(seq_len(nrow(column)), function(i) column[i, , drop = FALSE]))
    }
    return(if (is.list(column)) unclass(column) else if (is.null(dim(column))) as.list(column) else column_rows(column))
  }
  textual <- kind == kind_text || kind == kind_other
  if (is.data.frame(column)) fail("42804", "cannot turn a data frame within a row into a value of a column")
  if (is.object(column) && !inherits(column, "integer64")) column <- resolve(column, textual)
  if (textual && is.atomic(column) && !is.character(column) && !inherits(column, "integer64")) {
    column <- as.character(column)
  }
  if (is.list(column)) unclass(column) else if (is.object(column)) column else as.vector(column)
}

# The rows of a matrix that is a column of a data frame.
column_rows <- function(column) lapply(seq_len(nrow(column)), function(i) column[i, ])

recycle <- function(columns, rows) {
  lapply(columns, function(column) {
    if (length(column) == rows) {
      return(column)
    }
    if (length(column) != 1L) fail("42804", "columns of different lengths do not make rows")
    rep(column, rows)
  })
}

# --- triggers -------------------------------------------------------------------------------------------------------------

# What a trigger function's value means: NULL to skip the row, or list(changed columns, their values).
trigger_outcome <- function(value, new, old, op, when, level, shape) {
  unchanged <- list(integer(), list())
  if (level != "ROW" || when == "AFTER") {
    return(unchanged)
  }
  if (is.null(value)) {
    return(NULL)
  }
  if (!is.list(value)) fail("39P01", "a trigger function must return NULL or a row such as pg.tg.new or pg.tg.old")
  given <- if (op == "DELETE") old else new
  # A row that is deleted has no new values.
  if (op == "DELETE" || identical(value, given)) {
    return(unchanged)
  }
  if (is.data.frame(value) && nrow(value) == 0L) {
    return(NULL)
  }
  columns <- pick_columns(as.list(value), shape[[2L]])
  changed <- which(!mapply(identical, columns, unname(as.list(given)), USE.NAMES = FALSE))
  wrapped <- lapply(changed, function(i) {
    column <- columns[[i]]
    # In a plain list, as in a row that a user made, a column is the value itself.
    if (shape[[1L]][[i]] %in% whole_kinds && !(is.data.frame(value) && is.list(column))) column <- list(column)
    prepare_column(column, shape[[1L]][[i]])
  })
  empty <- lengths(wrapped) == 0L
  wrapped[empty] <- list(NA)
  list(changed, wrapped)
}
