-- Event triggers.
CREATE SCHEMA plc_event_triggers;
SET search_path = plc_event_triggers;
CREATE FUNCTION tell_event() RETURNS event_trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
plpy.notice(f"{TD['event']} {TD['tag']}")
if TD["event"] == "ddl_command_end":
    for row in plpy.execute("SELECT object_type, object_identity FROM pg_event_trigger_ddl_commands()"):
        plpy.notice(f"{row['object_type']} {row['object_identity']}")
if TD["event"] == "sql_drop":
    for row in plpy.execute("SELECT object_type, object_identity FROM pg_event_trigger_dropped_objects() WHERE original"):
        plpy.notice(f"dropped {row['object_type']} {row['object_identity']}")
$$;
CREATE EVENT TRIGGER regress_plc_start ON ddl_command_start EXECUTE FUNCTION tell_event();
CREATE EVENT TRIGGER regress_plc_end ON ddl_command_end EXECUTE FUNCTION tell_event();
CREATE EVENT TRIGGER regress_plc_drop ON sql_drop EXECUTE FUNCTION tell_event();
CREATE TABLE watched (a int);
ALTER TABLE watched ADD COLUMN b int;
DROP TABLE watched;
DROP EVENT TRIGGER regress_plc_start;
DROP EVENT TRIGGER regress_plc_end;
DROP EVENT TRIGGER regress_plc_drop;
CREATE FUNCTION refuse_event() RETURNS event_trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
plpy.error(f"no {TD['tag']} today", sqlstate="55000")
$$;
CREATE EVENT TRIGGER regress_plc_refuse ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION refuse_event();
\set VERBOSITY sqlstate
CREATE TABLE refused (a int);
\set VERBOSITY default
CREATE TABLE refused (a int);
DROP EVENT TRIGGER regress_plc_refuse;
CREATE TABLE refused (a int);
DROP TABLE refused;
SELECT tell_event();
SET client_min_messages = warning;
DROP SCHEMA plc_event_triggers CASCADE;
