-- One change of a run's halting counters, in one trip. counters/ledger.rs says the same in Rust.
--
-- KEYS[1]  halt:{root}:run
-- ARGV     epoch, seq, last_seq, expiry in seconds, then five amounts each of totals, settle, reserve, limits
-- Answer   {1, verdict (0 granted, else the refused limit), rebuilt ('' when not), five amounts used}
--          {0, the epoch seen} when the writer's epoch is lower
--
-- Every number is an integer below 2^53, so doubles hold it exactly; '%.0f' writes it without an exponent.

local MAX = 1000000000000000
local FIELDS = {'epoch', 'seq', 'verdict', 'rebuilt', 'u1', 'u2', 'u3', 'u4', 'u5'}

local function text(number) return string.format('%.0f', number) end
local function bounded(number) return math.max(-MAX, math.min(MAX, number)) end
local function amounts(group)
  local list = {}
  for i = 1, 5 do list[i] = tonumber(ARGV[4 + group * 5 + i]) end
  return list
end

local epoch, seq, last_seq = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local totals, settle, reserve, limits = amounts(0), amounts(1), amounts(2), amounts(3)

local kept = redis.call('HMGET', KEYS[1], unpack(FIELDS))
local whole = true
for i = 1, #FIELDS do whole = whole and kept[i] end

local used, rebuilt = totals, ''
if whole then
  local kept_epoch, kept_seq = tonumber(kept[1]), tonumber(kept[2])
  if epoch < kept_epoch then return {0, kept[1]} end
  if epoch == kept_epoch and seq == kept_seq then
    return {1, kept[3], kept[4], kept[5], kept[6], kept[7], kept[8], kept[9]}
  end
  if kept_seq == last_seq then
    used = {}
    for i = 1, 5 do used[i] = tonumber(kept[4 + i]) end
  else
    rebuilt = kept[2]
  end
elseif last_seq ~= -1 then
  rebuilt = '-1'
end

local verdict = 0
for i = 1, 5 do used[i] = bounded(used[i] + settle[i]) end
for i = 1, 5 do
  if reserve[i] > 0 and used[i] + reserve[i] > math.min(limits[i], MAX) then
    verdict = i
    break
  end
end
if verdict == 0 then
  for i = 1, 5 do used[i] = bounded(used[i] + reserve[i]) end
end

local answer = {1, text(verdict), rebuilt}
for i = 1, 5 do answer[3 + i] = text(used[i]) end
redis.call('HSET', KEYS[1], 'epoch', text(epoch), 'seq', text(seq), 'verdict', answer[2], 'rebuilt', rebuilt,
  'u1', answer[4], 'u2', answer[5], 'u3', answer[6], 'u4', answer[7], 'u5', answer[8])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return answer
