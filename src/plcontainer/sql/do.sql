-- DO blocks.
CREATE SCHEMA plc_do;
SET search_path = plc_do;
DO LANGUAGE plcontainer $$
# container: plc_python_shared
plpy.notice("hello")
$$;
DO $$
# container: plc_python_shared
def inner():
    raise ValueError("wrong")
inner()
$$ LANGUAGE plcontainer;
DO LANGUAGE plcontainer $$
# container: plc_python_shared
if x
$$;
DO LANGUAGE plcontainer $$
return 1
$$;
DO LANGUAGE plcontainer $$
# container: plc_python_shared
GD["n"] = GD.get("n", 0) + 1
plpy.notice(f"GD {GD['n']}, SD {sorted(SD)}, args {args}")
SD["kept"] = True
$$;
DO LANGUAGE plcontainer $$
# container: plc_python_shared
GD["n"] = GD.get("n", 0) + 1
plpy.notice(f"GD {GD['n']}, SD {sorted(SD)}")
return
$$;
DO LANGUAGE plcontainer $$
# container: plc_python_shared
return 1
$$;
CREATE TABLE done (n int);
DO LANGUAGE plcontainer $$
# container: plc_python_shared
plan = plpy.prepare("INSERT INTO done VALUES ($1)", ["int"])
for i in range(10):
    plan.execute([i])
$$;
SELECT count(*), sum(n) FROM done;
-- Within each other.
DO LANGUAGE plcontainer $do$
# container: plc_python_shared
plpy.execute("""DO LANGUAGE plcontainer $$
# container: plc_python_shared
plpy.notice('inner')
$$""")
plpy.notice("outer")
$do$;
-- A block leaves nothing behind.
SELECT functions FROM public.plcontainer_session_sandboxes();
SET client_min_messages = warning;
DROP SCHEMA plc_do CASCADE;
