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
