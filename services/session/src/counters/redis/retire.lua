-- Lets go of an ended run's counters. For ten minutes they say where its log ended: a store that takes another's place
-- within them, and has not that end, is found out by who goes on from what it has.
local function retire(key, next_seq)
  if redis.call('EXISTS', key) == 0 then return 0 end
  redis.call('HSET', key, 'seq', next_seq)
  return redis.call('EXPIRE', key, 600)
end
