-- Errors have a SQLSTATE, the user's message first and a traceback; the session goes on.
CREATE FUNCTION divide(a int, b int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
def inner(x, y):
    return x // y
return inner(a, b)
$$;
SELECT divide(1, 0);
SELECT divide(6, 3);
\set VERBOSITY sqlstate
SELECT divide(1, 0);
\set VERBOSITY default

CREATE FUNCTION no_syntax() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
x = 1
if x
    return 2
$$;
SET check_function_bodies = off;
CREATE FUNCTION no_syntax() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
x = 1
if x
    return 2
$$;
RESET check_function_bodies;
SELECT no_syntax();
\set VERBOSITY sqlstate
SELECT no_syntax();

-- A body that nothing can check is kept, with a warning.
CREATE FUNCTION absent() RETURNS int LANGUAGE plcontainer AS $$
# container: no_such_runtime
return 1
$$;
SELECT absent();
\set VERBOSITY default

-- Fields of an error, and of the levels below it.
CREATE FUNCTION say(level text) RETURNS void LANGUAGE plcontainer AS $$
# container: plc_python_shared
getattr(plpy, level)("the message", detail="the detail", hint="the hint", sqlstate="XX123",
    schema_name="s", table_name="t", column_name="c", datatype_name="d", constraint_name="n")
$$;
SET client_min_messages = debug2;
\set SHOW_CONTEXT never
SELECT say('debug');
SET client_min_messages = notice;
SELECT say('info');
SELECT say('notice');
SELECT say('warning');
DO $$
DECLARE
    state text; message text; detail text; hint text; s text; t text; c text; d text; n text;
BEGIN
    PERFORM say('error');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT, s = SCHEMA_NAME, t = TABLE_NAME, c = COLUMN_NAME, d = PG_DATATYPE_NAME, n = CONSTRAINT_NAME;
    RAISE INFO '% % % % % % % % %', state, message, detail, hint, s, t, c, d, n;
END $$;
\set VERBOSITY default
SELECT say('fatal');
\set SHOW_CONTEXT errors
SELECT divide(6, 3);

-- An error costs neither the sandbox nor what it keeps.
CREATE FUNCTION remember(v int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
old = GD.get("v")
GD["v"] = v
return old
$$;
SELECT remember(1);
SELECT divide(1, 0);
SELECT remember(2);
CREATE FUNCTION leave() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
import sys
sys.exit(3)
$$;
SELECT leave();
SELECT remember(3);
CREATE FUNCTION deep() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
def down():
    return down()
try:
    return down()
except RecursionError:
    return -1
$$;
SELECT deep();

-- Cancelled in time, and what was kept is still there.
CREATE FUNCTION endless() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
while True:
    pass
$$;
SET statement_timeout = '300ms';
SELECT endless();
RESET statement_timeout;
SELECT remember(4);
CREATE FUNCTION asleep() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
import threading
threading.Event().wait(1000)
$$;
SET statement_timeout = '300ms';
SELECT asleep();
RESET statement_timeout;
SELECT remember(5);

-- Where a function can't be interrupted, its sandbox is dropped.
CREATE FUNCTION stubborn() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
while True:
    pass
$$;
SET statement_timeout = '300ms';
SELECT stubborn();
RESET statement_timeout;
SELECT remember(6) IS NULL AS is_new;

-- A flood of messages can be cancelled, too.
CREATE FUNCTION flood() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
while True:
    plpy.debug("again")
$$;
SET statement_timeout = '300ms';
SELECT flood();
RESET statement_timeout;

-- A sandbox that ends itself takes its call with it, and nothing else.
CREATE FUNCTION crash() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
import os
os._exit(3)
$$;
DO $$
DECLARE
    state text; message text; hint text;
BEGIN
    PERFORM crash();
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RAISE INFO '% % %', state, regexp_replace(message, 'sandbox "[^"]*"', 'sandbox "..."'), hint;
END $$;
SELECT divide(6, 3);

-- A message that breaks the protocol costs the sandbox, not the backend.
CREATE FUNCTION junk() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
import os, socket
for name in os.listdir("/proc/self/fd"):
    try:
        s = socket.socket(fileno=os.dup(int(name)))
        if s.family == socket.AF_UNIX:
            s.send(b"\xff" * 64)
    except OSError:
        pass
return 1
$$;
SELECT pg_backend_pid() AS pid \gset
\set VERBOSITY sqlstate
SELECT junk();
\set VERBOSITY default
SELECT pg_backend_pid() = :pid AS same_backend, divide(6, 3);

-- The server can't be reached.
SELECT set_config('plcontainer.server_socket', '/nowhere/protocol_server.sock', false) <> '' AS set;
CREATE ROLE regress_plc_other SUPERUSER;
SET ROLE regress_plc_other;
SELECT divide(6, 3);
RESET ROLE;
-- A sandbox that is there needs no server.
SELECT divide(6, 3);
RESET plcontainer.server_socket;
DROP ROLE regress_plc_other;
DROP FUNCTION divide, no_syntax, absent, say, remember, leave, deep, endless, asleep, stubborn, flood, crash, junk;
