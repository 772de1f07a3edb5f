-- Stands before every script. Every number is an integer below 2^53, so doubles hold it exactly.

local MAX = 1000000000000000

-- Without an exponent.
local function text(number) return string.format('%.0f', number) end
local function bounded(number) return math.max(-MAX, math.min(MAX, number)) end

-- Lists of numbers as one field, parted by blanks.
local function pack(list)
  local words = {}
  for i = 1, #list do words[i] = text(list[i]) end
  return table.concat(words, ' ')
end
local function numbers(packed)
  local list = {}
  for word in string.gmatch(packed or '', '%S+') do list[#list + 1] = tonumber(word) end
  return list
end
local function arguments(first, count)
  local list = {}
  for i = 1, count do list[i] = tonumber(ARGV[first + i - 1]) end
  return list
end

-- The server's replication id: another one after a restart, a promotion or a move to another node of a cluster, any of
-- which may have lost writes.
local function home() return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') end

-- A number that this server has not given before: its time in microseconds.
local function mint()
  local time = redis.call('TIME')
  return text(time[1] * 1000000 + time[2])
end

-- A pool that can be drawn from, or nil when it is lost.
local function pool_of(key, nonce)
  local kept = redis.call('HMGET', key, 'home', 'nonce', 'size', 'sum')
  local size, sum = numbers(kept[3]), numbers(kept[4])
  if kept[1] ~= home() or kept[2] ~= nonce or #size ~= 5 or #sum ~= 5 then return nil end
  return {size = size, sum = sum}
end

-- A child's share of a pool: epoch, seq, what it holds, what it got last, 1 when that is of its log and nobody has asked
-- since. False when it has none, nil when damaged.
local function child_of(key, run)
  local packed = redis.call('HGET', key, 'c:' .. run)
  if not packed then return false end
  local list = numbers(packed)
  if #list ~= 13 then return nil end
  local child = {epoch = list[1], seq = list[2], held = {}, got = {}, read = list[13]}
  for i = 1, 5 do child.held[i], child.got[i] = list[2 + i], list[7 + i] end
  return child
end

local function keep_child(key, run, pool, before, child)
  local list = {child.epoch, child.seq}
  for i = 1, 5 do
    pool.sum[i] = pool.sum[i] - (before and before.held[i] or 0) + child.held[i]
    list[2 + i], list[7 + i] = child.held[i], child.got[i]
  end
  list[13] = child.read
  redis.call('HSET', key, 'c:' .. run, pack(list), 'sum', pack(pool.sum))
end
