-- Lets go of an ended child run's counters and gives back what it left to the pool.
--
-- KEYS[1]  halt:{root}:run   KEYS[2]  the pool
-- ARGV     nonce, run, epoch and seq of its end, five amounts held

local epoch, seq, held = tonumber(ARGV[3]), tonumber(ARGV[4]), arguments(5, 5)
retire(KEYS[1], text(seq + 1))
local pool = pool_of(KEYS[2], ARGV[1])
-- A lost pool is rebuilt from the logs, which have this end.
if not pool then return 0 end
local child = child_of(KEYS[2], ARGV[2])
if child == nil then return 0 end
-- An end is the last event of its log: it is true whoever has asked meanwhile.
keep_child(KEYS[2], ARGV[2], pool, child, {epoch = epoch, seq = seq + 1, held = held, got = {0, 0, 0, 0, 0}, read = 1})
return 1
