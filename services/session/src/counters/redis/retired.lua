-- An ended run.
--
-- KEYS[1]  halt:{root}:run
-- ARGV     where its log ended

return retire(KEYS[1], ARGV[1])
