-- The service reads and writes rows, and only the owner changes tables. Slow statements are counted without their values.
-- Prints a digest of rights and extensions before and after the changes.
-- This runs as superuser: without this line, a function that the owner creates in public could run with those rights.
SET search_path = pg_catalog;
PREPARE rights AS
  SELECT md5(concat(
    (SELECT datacl FROM pg_database WHERE datname = current_database()),
    (SELECT nspacl FROM pg_namespace WHERE nspname = 'public'),
    (SELECT string_agg(defaclacl::text, ' ' ORDER BY defaclacl::text) FROM pg_default_acl),
    (SELECT string_agg(extname, ' ' ORDER BY extname) FROM pg_extension)
  ));
EXECUTE rights;
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA public;
REVOKE CONNECT, TEMPORARY ON DATABASE sentiment FROM PUBLIC;
GRANT CONNECT ON DATABASE sentiment TO sentiment;
GRANT USAGE ON SCHEMA public TO sentiment;
ALTER DEFAULT PRIVILEGES FOR ROLE sentiment_owner IN SCHEMA public
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO sentiment;
ALTER DEFAULT PRIVILEGES FOR ROLE sentiment_owner IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO sentiment;
EXECUTE rights;
