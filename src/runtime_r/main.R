# Entry point: Rscript --vanilla <this file>.
#
# The runtime lives in an environment of its own; what functions see of it is attached to the search path. Nothing is
# left in the global environment, which is the functions'.

local({
  arguments <- commandArgs()
  directory <- dirname(sub("^--file=", "", grep("^--file=", arguments, value = TRUE)[1]))
  path <- Sys.getenv("PLC_SOCKET")
  if (path == "") {
    message("PLC_SOCKET is not set")
    quit(status = 1)
  }
  runtime <- new.env(parent = baseenv())
  routines <- getDLLRegisteredRoutines(dyn.load(file.path(directory, "plc_r.so")))[[".Call"]]
  for (name in names(routines)) assign(paste0("c_", name), routines[[name]], runtime)
  for (name in c("runtime", "convert", "types", "pg")) {
    sys.source(file.path(directory, paste0(name, ".R")), runtime, keep.source = FALSE)
  }
  for (name in ls(runtime)) {
    if (is.function(runtime[[name]])) runtime[[name]] <- compiler::cmpfun(runtime[[name]])
  }
  # Functions are closed over this, so that is.null() is theirs and assignments with <<- go to the global environment.
  runtime$scope <- new.env(parent = globalenv())
  assign("is.null", runtime$is_null, runtime$scope)
  lockEnvironment(runtime$scope, bindings = TRUE)
  runtime$public <- runtime$public_functions()
  attach(c(runtime$public, runtime$type_constants()), name = "plcontainer", warn.conflicts = FALSE)
  entry <- new.env(parent = runtime$scope)
  .Call(runtime$c_serve, path, runtime, entry)
})
