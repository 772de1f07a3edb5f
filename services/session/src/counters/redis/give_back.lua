-- Closes a grant of a window budget.
--
-- ARGV     id, cost and runs that were not used

local kept = budget_of(KEYS[1])
if not kept then return 0 end
local field = 'g:' .. ARGV[1]
local grant, unused = numbers(redis.call('HGET', KEYS[1], field) or ''), arguments(2, 2)
if #grant ~= 6 then return 0 end
for i = 1, 2 do kept.used[i] = kept.used[i] - math.min(grant[i], unused[i]) end
redis.call('HSET', KEYS[1], 'used', pack(kept.used))
redis.call('HDEL', KEYS[1], field)
return 1
