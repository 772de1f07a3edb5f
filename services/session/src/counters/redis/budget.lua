-- Stands before the scripts of window budgets, after the prelude. KEYS[1] is budget:{budget}:window.

-- The generation that is kept, and what is used and reached (cost and runs each); nil when lost or on another server.
local function budget_of(key)
  local kept = redis.call('HMGET', key, 'home', 'generation', 'used', 'reached')
  local used, reached = numbers(kept[3]), numbers(kept[4])
  if not kept[2] or kept[1] ~= home() or #used ~= 2 or #reached ~= 2 then return nil end
  return {generation = tonumber(kept[2]), used = used, reached = reached}
end

-- A day's counters end some days after it, a lifetime's some weeks after their last use.
local function expire(key, kind, seconds) redis.call(kind == 'at' and 'EXPIREAT' or 'EXPIRE', key, seconds) end
