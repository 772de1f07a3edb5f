-- Grants a slice of a window budget. counters/budget.rs says the same in Rust.
--
-- ARGV     generation, id, expiry ('at' or 'in', seconds), then cost and runs each of limit, want, least, then the three
--          thresholds of cost and of runs, rounded up ('' where there is no limit)
-- Answer   {0, the generation kept or -1} when lost
--          {1, cost and runs granted, cost and runs used, from and to which threshold of cost, of runs}
--          {2, what is exhausted (1 cost, 2 runs), cost and runs used}

local PERCENT = {50, 80, 100}

local generation, field = tonumber(ARGV[1]), 'g:' .. ARGV[2]
local kept = budget_of(KEYS[1])
if not kept then return {'0', '-1'} end
if kept.generation ~= generation then return {'0', text(kept.generation)} end

local function granted(list)
  local answer = {'1', text(list[1]), text(list[2]), text(kept.used[1]), text(kept.used[2])}
  for i = 3, 6 do answer[3 + i] = text(list[i]) end
  return answer
end

local before = numbers(redis.call('HGET', KEYS[1], field) or '')
if #before == 6 then return granted(before) end

local limit, want, least = arguments(5, 2), arguments(7, 2), arguments(9, 2)
local amount = {}
for i = 1, 2 do
  amount[i] = math.min(want[i], math.max(0, math.min(limit[i], MAX) - kept.used[i]))
end
for i = 1, 2 do
  if amount[i] < least[i] then return {'2', text(i), text(kept.used[1]), text(kept.used[2])} end
end

local grant = {amount[1], amount[2]}
for i = 1, 2 do
  kept.used[i] = kept.used[i] + amount[i]
  local from = kept.reached[i]
  local to = from
  for j = 1, 3 do
    local mark = tonumber(ARGV[10 + (i - 1) * 3 + j])
    if mark and kept.used[i] >= mark then to = math.max(to, PERCENT[j]) end
  end
  grant[1 + 2 * i], grant[2 + 2 * i] = from, to
  kept.reached[i] = to
end
redis.call('HSET', KEYS[1], field, pack(grant), 'used', pack(kept.used), 'reached', pack(kept.reached))
expire(KEYS[1], ARGV[3], ARGV[4])
return granted(grant)
