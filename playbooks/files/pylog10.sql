-- The function of the first page: what `make up` shows at its end. The median of the later calls is the time of a warm one.
SELECT split_part(current_setting('server_version'), ' ', 1);
CREATE OR REPLACE FUNCTION pylog10(n float8) RETURNS float8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
import math
return math.log10(n)
$$;
\timing on
SELECT pylog10(100);
SELECT pylog10(100);
SELECT pylog10(100);
SELECT pylog10(100);
SELECT pylog10(100);
SELECT pylog10(100);
SELECT pylog10(100);
SELECT pylog10(100);
SELECT pylog10(100);
SELECT pylog10(100);
