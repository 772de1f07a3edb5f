-- Puts the counters of a window budget together again. The first of a generation wins.
--
-- ARGV     generation, expiry ('at' or 'in', seconds), used, reached, then id and share of each open grant

local generation = tonumber(ARGV[1])
local kept = budget_of(KEYS[1])
if kept and kept.generation >= generation then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'home', home(), 'generation', text(generation), 'used', ARGV[4], 'reached', ARGV[5])
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], 'g:' .. ARGV[i], ARGV[i + 1]) end
expire(KEYS[1], ARGV[2], ARGV[3])
return 1
