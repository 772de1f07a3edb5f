-- Lets go of an ended run's counters. For ten minutes they say where its log ended: a store that takes another's place
-- within them, and has not that end, is found out by who goes on from what it has.
local function retire(key, next_seq)
  local epoch, rest = string.match(redis.call('GET', key) or '', '^(%d+) %-?%d+ (.*)$')
  if not epoch then return 0 end
  redis.call('SET', key, epoch .. ' ' .. next_seq .. ' ' .. rest, 'EX', 600)
  return 1
end
