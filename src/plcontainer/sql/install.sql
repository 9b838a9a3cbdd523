-- The extension and who may use it.
SELECT extversion FROM pg_extension WHERE extname = 'plcontainer';
SELECT lanname, lanpltrusted FROM pg_language WHERE lanname = 'plcontainer';
CREATE ROLE regress_plc_user;
SELECT has_language_privilege('regress_plc_user', 'plcontainer', 'USAGE') AS may_use;
GRANT CREATE ON SCHEMA public TO regress_plc_user;
SET ROLE regress_plc_user;
CREATE FUNCTION not_allowed() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return 1
$$;
SET plcontainer.server_socket = '/tmp/elsewhere';
RESET ROLE;
GRANT USAGE ON LANGUAGE plcontainer TO regress_plc_user;
SET ROLE regress_plc_user;
CREATE FUNCTION allowed() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return 1
$$;
SELECT allowed();
SELECT runtime, role, functions, calls FROM plcontainer_session_sandboxes();
RESET ROLE;
-- Another role has another sandbox.
SELECT allowed();
SELECT runtime, role = current_user AS mine, functions, calls
    FROM plcontainer_session_sandboxes() ORDER BY role = current_user;
SELECT count(DISTINCT sandbox) FROM plcontainer_session_sandboxes();
DROP FUNCTION allowed();
REVOKE CREATE ON SCHEMA public FROM regress_plc_user;
REVOKE USAGE ON LANGUAGE plcontainer FROM regress_plc_user;
DROP ROLE regress_plc_user;
