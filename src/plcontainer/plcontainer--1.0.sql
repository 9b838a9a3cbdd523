\echo Use "CREATE EXTENSION plcontainer" to load this file. \quit

CREATE FUNCTION plcontainer_call_handler() RETURNS language_handler
    AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE FUNCTION plcontainer_inline_handler(internal) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C STRICT;

CREATE FUNCTION plcontainer_validator(oid) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C STRICT;

-- Trusted: the code can't reach the host. Still, a sandbox costs memory and
-- processor time, so an administrator says who may use the language.
CREATE TRUSTED LANGUAGE plcontainer
    HANDLER plcontainer_call_handler
    INLINE plcontainer_inline_handler
    VALIDATOR plcontainer_validator;
REVOKE USAGE ON LANGUAGE plcontainer FROM PUBLIC;
COMMENT ON LANGUAGE plcontainer IS 'PL/Container procedural language';

-- Shows nothing but the caller's own session, hence open to PUBLIC.
CREATE FUNCTION plcontainer_session_sandboxes(
        OUT runtime text, OUT role text, OUT sandbox text, OUT codec text,
        OUT functions integer, OUT calls bigint)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION plcontainer_session_sandboxes() IS
    'the sandboxes that this session holds';

-- What the protocol server of this host knows. It shows a role what concerns
-- that role, and everything to members of pg_monitor.
CREATE FUNCTION plcontainer_containers_json() RETURNS jsonb
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
CREATE FUNCTION plcontainer_config_json() RETURNS jsonb
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
CREATE FUNCTION plcontainer_statistics_json() RETURNS jsonb
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED;

CREATE FUNCTION plcontainer_containers_info(
        OUT sandbox text, OUT runtime text, OUT role text, OUT database text,
        OUT backend_pid integer, OUT state text, OUT up_time interval,
        OUT memory_kb bigint, OUT cpu_seconds double precision)
    RETURNS SETOF record
    LANGUAGE SQL VOLATILE PARALLEL RESTRICTED
    BEGIN ATOMIC
        SELECT c.sandbox, c.runtime, c.role, c.database, c.backend_pid, c.state,
               make_interval(secs => c.uptime_s), c.memory_bytes / 1024, c.cpu_s
        FROM jsonb_to_recordset(plcontainer_containers_json()) AS c(
            sandbox text, runtime text, role text, database text, backend_pid integer,
            state text, uptime_s double precision, memory_bytes bigint, cpu_s double precision);
    END;
COMMENT ON FUNCTION plcontainer_containers_info() IS
    'the sandboxes of this host, with what they use';

CREATE FUNCTION plcontainer_containers_summary(
        OUT sandbox text, OUT runtime text, OUT role text, OUT up_time interval, OUT memory_kb bigint)
    RETURNS SETOF record
    LANGUAGE SQL VOLATILE PARALLEL RESTRICTED
    BEGIN ATOMIC
        SELECT i.sandbox, i.runtime, i.role, i.up_time, i.memory_kb FROM plcontainer_containers_info() AS i;
    END;
COMMENT ON FUNCTION plcontainer_containers_summary() IS
    'the sandboxes of this host';

CREATE VIEW plcontainer_show_config AS
    SELECT c.id, c.language, c.image, c.command, c.memory_mb, c.cpu_shares, c.cpus, c.pids, c.roles
    FROM jsonb_to_recordset(plcontainer_config_json()) AS c(
        id text, language text, image text, command text[], memory_mb integer, cpu_shares integer,
        cpus double precision, pids integer, roles text[]);
COMMENT ON VIEW plcontainer_show_config IS
    'the runtimes of this host';
GRANT SELECT ON plcontainer_show_config TO PUBLIC;

CREATE FUNCTION plcontainer_refresh_config() RETURNS jsonb
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
REVOKE EXECUTE ON FUNCTION plcontainer_refresh_config() FROM PUBLIC;
COMMENT ON FUNCTION plcontainer_refresh_config() IS
    'has the protocol server of this host read its configuration anew';

CREATE VIEW plcontainer_statistics AS
    SELECT s.function::regprocedure AS function, s.calls, s.rows, s.errors, s.bytes_sent, s.bytes_received,
           make_interval(secs => s.microseconds / 1000000.0) AS total_time
    FROM jsonb_to_recordset(plcontainer_statistics_json()) AS s(
        function oid, calls bigint, rows bigint, errors bigint, bytes_sent bigint, bytes_received bigint,
        microseconds bigint)
    JOIN pg_catalog.pg_proc AS p ON p.oid = s.function
    WHERE has_function_privilege(s.function, 'EXECUTE');
COMMENT ON VIEW plcontainer_statistics IS
    'what functions of this database have cost on this host since its protocol server was started';
GRANT SELECT ON plcontainer_statistics TO PUBLIC;
