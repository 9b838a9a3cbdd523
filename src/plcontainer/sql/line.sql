-- The line that names the runtime is checked by CREATE FUNCTION.
\set VERBOSITY default
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS '';
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS $$
return 1
$$;
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS $$
# contain: plc_python_shared
return 1
$$;
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS $$
# container plc_python_shared
return 1
$$;
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS $$
# container:
return 1
$$;
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS $$# container: plc_python_shared$$;
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS $$
# container: _shared
return 1
$$;
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS $$
# container: plc/shared
return 1
$$;
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS $$
# container: größe
return 1
$$;
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared fast=yes
return 1
$$;
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS $$
# container: a123456789b123456789c123456789d123456789e123456789f123456789abcd
return 1
$$;
\set VERBOSITY sqlstate
CREATE FUNCTION f() RETURNS int LANGUAGE plcontainer AS $$
return 1
$$;
\set VERBOSITY default

-- White space is free.
CREATE FUNCTION spaces() RETURNS int LANGUAGE plcontainer AS $$

	#   container	:  plc_python_shared  	
return 1
$$;
SELECT spaces();
CREATE FUNCTION at_once() RETURNS int LANGUAGE plcontainer AS $$#container:plc_python_shared
return 2
$$;
SELECT at_once();
CREATE FUNCTION nothing() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
$$;
SELECT nothing() IS NULL AS is_null;

-- Restoring a dump does not look at bodies; calling does.
SET check_function_bodies = off;
CREATE FUNCTION unchecked() RETURNS int LANGUAGE plcontainer AS $$
return 1
$$;
RESET check_function_bodies;
SELECT unchecked();

-- What no value can be is refused by CREATE FUNCTION.
CREATE FUNCTION f() RETURNS cstring LANGUAGE plcontainer AS $$
# container: plc_python_shared
$$;
CREATE FUNCTION f(a internal) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
$$;
DROP FUNCTION spaces(), at_once(), nothing(), unchecked();
