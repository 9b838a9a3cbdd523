# Calls, compilation, and what callers are told of errors.

failure_limit <- 262144L # characters of one text
frames_shown <- 20L # of a call stack, from either end

# The keys of PostgreSQL's error fields, by the names that conditions have them under.
condition_fields <- c(
  detail = "D", hint = "H", schema = "s", table = "t", column = "c", datatype = "d", constraint = "n", query = "q",
  position = "p"
)

# --- errors -------------------------------------------------------------------------------------------------------

is_sqlstate <- function(text) is.character(text) && length(text) == 1L && grepl("^[0-9A-Z]{5}$", text)

new_condition <- function(message, sqlstate, fields = list(), class = character(), call = NULL) {
  structure(
    class = c(class, "plc_error", "error", "condition"),
    c(list(message = message, call = call, sqlstate = sqlstate), fields)
  )
}

# Raises an error with a SQLSTATE.
fail <- function(sqlstate, message, ...) stop(new_condition(message, sqlstate, list(...)))

# Raises what the backend said of a request.
raise_spi_error <- function(keys, texts) {
  names(texts) <- keys
  fields <- as.list(texts[intersect(keys, condition_fields)])
  names(fields) <- names(condition_fields)[match(names(fields), condition_fields)]
  if ("W" %in% keys) fields$context <- texts[["W"]]
  sqlstate <- if ("C" %in% keys) texts[["C"]] else "XX000"
  stop(new_condition(texts[["M"]], sqlstate, fields, "spi_error", find_caller()))
}

# The call of the function of pg.R that is at work.
find_caller <- function() {
  calls <- sys.calls()
  named <- vapply(calls, function(call) is.name(call[[1L]]) && startsWith(as.character(call[[1L]]), "pg."), NA)
  if (any(named)) calls[[max(which(named))]] else NULL
}

clean <- function(text) {
  text <- enc2utf8(paste(as.character(text), collapse = "\n"))
  if (!validUTF8(text)) text <- iconv(text, "latin1", "UTF-8")
  if (nchar(text) > failure_limit) substr(text, 1L, failure_limit) else text
}

# The fields of the Error that a condition ends a call with.
describe <- function(error, calls) {
  sqlstate <- if (is.list(error)) unclass(error)$sqlstate
  fields <- c(
    C = if (is_sqlstate(sqlstate) && sqlstate != "00000") sqlstate else "38000",
    M = tryCatch(clean(conditionMessage(error)), error = function(e) "unknown error")
  )
  if (inherits(error, "plc_error")) {
    for (name in names(condition_fields)) {
      value <- unclass(error)[[name]]
      if (length(value) == 1L && !is.na(value)) fields[[condition_fields[[name]]]] <- clean(value)
    }
  }
  context <- c(describe_stack(calls), if (inherits(error, "spi_error")) error$context)
  if (length(context)) fields[["W"]] <- clean(context)
  fields
}

# Lines for the frames of a call, but for the runtime's own.
describe_stack <- function(calls) {
  first <- find_last(calls, "invoke") + 2L # the call of withCallingHandlers() is between
  last <- length(calls)
  # What raises an error is no part of where it was raised.
  while (last >= first && (call_head(calls[[last]]) %in% raising || is_own(sys.function(last)))) last <- last - 1L
  if (last < first || is_own(sys.function(first))) {
    return("while creating return value")
  }
  shown <- first:last
  skipped <- length(shown) - 2L * frames_shown
  lines <- lapply(shown, function(i) {
    if (skipped > 0L && i == first + frames_shown) return(sprintf("  [%d more calls]", skipped))
    if (skipped > 0L && i > first + frames_shown && i < first + frames_shown + skipped) return(NULL)
    describe_frame(calls[[i]], if (i < length(calls)) attr(calls[[i + 1L]], "srcref"))
  })
  c("R call stack (most recent call last):", unlist(lines))
}

raising <- c("stop", ".handleSimpleError", "h", "warning", "withRestarts", "withOneRestart", "doWithOneRestart")

# Whether a function belongs to the runtime and is nothing that users call.
is_own <- function(f) identical(environment(f), environment(is_own)) && !any(vapply(public, identical, NA, f))

call_head <- function(call) {
  head <- call[[1L]]
  if (is.name(head)) as.character(head) else if (is.function(head)) "<anonymous>" else deparse(head, nlines = 1L)[[1L]]
}

find_last <- function(calls, name) {
  found <- vapply(calls, function(call) identical(call[[1L]], as.name(name)), NA)
  if (any(found)) max(which(found)) else 0L
}

# One frame: where its function was when it called the next one, and that line.
describe_frame <- function(call, at) {
  file <- if (inherits(at, "srcref")) attr(at, "srcfile")
  name <- paste0(call_head(call), "()")
  if (is.null(file) || !inherits(file, "plc_source")) {
    return(paste0("  in ", name))
  }
  line <- at[[1L]]
  c(
    sprintf("  %s, line %d, in %s", file$filename, line, name),
    if (line <= length(file$lines)) paste0("    ", trimws(file$lines[[line]]))
  )
}

record <- function(fields) .Call(c_record_failure, names(fields), fields)

# --- calls ----------------------------------------------------------------------------------------------------------

on_error <- function(error) {
  calls <- sys.calls()
  record(describe(error, calls[-length(calls)]))
}

on_interrupt <- function(condition) record(c(C = "57014", M = "R was interrupted"))

# What R said of an error that no handler could be called for.
record_last_error <- function() {
  message <- sub("^Error[^:]*: *", "", trimws(geterrmessage()))
  .Internal(seterrmessage(""))
  deep <- grepl("stack|nested too deeply", message)
  if (nzchar(message)) record(c(C = if (deep) "54001" else "38000", M = clean(message)))
}

on_warning <- function(warning) {
  .Call(c_log, 5L, "M", clean(conditionMessage(warning)))
  tryInvokeRestart("muffleWarning")
}

# Runs the call or the batch that the shared object has at hand.
invoke <- function() {
  withCallingHandlers(.Call(c_perform, NULL), error = on_error, interrupt = on_interrupt, warning = on_warning)
}

# --- compilation ------------------------------------------------------------------------------------------------------

# PL/R's names of what a trigger function is called with, in the order of the arguments.
trigger_names <- c(
  "pg.tg.name", "pg.tg.relid", "pg.tg.relname", "pg.tg.relschema", "pg.tg.when", "pg.tg.level", "pg.tg.op", "pg.tg.args",
  "pg.tg.new", "pg.tg.old"
)
event_trigger_names <- c("pg.tg.event", "pg.tg.tag")

formal_names <- function(names, flags) {
  if (bitwAnd(flags, 2L) && length(names)) {
    return(trigger_names)
  }
  if (bitwAnd(flags, 4L) && length(names)) {
    return(event_trigger_names)
  }
  unnamed <- names == ""
  names[unnamed] <- paste0("arg", seq_along(names))[unnamed]
  names
}

# The function of a source. An empty one stands for R's function of the same name.
compile <- function(name, source, names, flags) {
  withCallingHandlers(
    {
      names <- formal_names(names, flags)
      shown <- if (name == "") "PL/Container inline code block" else sprintf("PL/Container function \"%s\"", name)
      lines <- strsplit(gsub("\r", "", source, fixed = TRUE), "\n", fixed = TRUE)[[1L]]
      formals <- rep(list(quote(expr = )), length(names))
      names(formals) <- names
      as.function(c(formals, list(parse_body(shown, lines, name, names))), envir = scope)
    },
    error = function(error) record(describe_compilation(error, shown, lines))
  )
}

# The lines between braces, as a function has them: some sources have no meaning outside of such.
parse_body <- function(shown, lines, name, names) {
  file <- srcfilecopy(shown, lines)
  class(file) <- c("plc_source", class(file))
  braced <- c(paste0("{", if (length(lines)) lines[[1L]]), lines[-1L], "}")
  body <- parse(text = braced, keep.source = TRUE, srcfile = file)
  if (length(body) != 1L) stop("braces are not balanced")
  body <- body[[1L]]
  if (length(body) > 1L) {
    body
  } else if (name != "") {
    as.call(lapply(c(name, names), as.name))
  }
}

describe_compilation <- function(error, shown, lines) {
  message <- conditionMessage(error)
  found <- regmatches(message, regexec(":([0-9]+):([0-9]+): ([^\n]*)", message))[[1L]]
  fields <- c(C = "42601", M = paste("could not compile", shown))
  if (length(found) != 4L) {
    return(c(fields, D = clean(message)))
  }
  line <- as.integer(found[[2L]])
  text <- if (line >= 1L && line <= length(lines)) paste0("\n    ", trimws(lines[[line]])) else ""
  c(fields, D = clean(sprintf("%s (line %d)", found[[4L]], line)), W = clean(sprintf("%s, line %d%s", shown, line, text)))
}
