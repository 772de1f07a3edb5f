-- One change of a run's halting counters, in one trip. counters/ledger.rs and counters/pool.rs say the same in Rust.
--
-- KEYS[1]  halt:{root}:run, which keeps place|verdict|rebuilt|tree; its place is epoch, seq and the five amounts used
-- ARGV     epoch, seq, last_seq, expiry in seconds, then five amounts each of totals, settle, reserve, limits
-- With pools also
-- KEYS[2]  the pool that this run opens or closes, KEYS[3] the pool that it draws from; KEYS[1] stands for none
-- ARGV     25 'open', 'close' or '', 26-30 size to open, 31 nonce of the pool to draw from or '', 32 this run,
--          33-37 drawn before, 38-42 wanted
-- Answer   {1, verdict (0 granted, else the refused limit), rebuilt ('' when not), five amounts used, tree}
--          {0, the epoch seen} when the writer's epoch is lower
--          {2, token} when the pool to draw from is lost
-- tree     '' or: nonce of the pool opened or -1, five amounts drawn

local epoch, seq, last_seq, expiry = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local totals, settle, reserve, limits = arguments(5, 5), arguments(10, 5), arguments(15, 5), arguments(20, 5)
local carve, draw_nonce, run = ARGV[25] or '', ARGV[31] or '', ARGV[32]

local place, kept_verdict, kept_rebuilt, kept_tree =
  string.match(redis.call('GET', KEYS[1]) or '', '^([%d%- ]*)|(%d+)|(%-?%d*)|([%d%- ]*)$')
local kept = numbers(place)

local used, rebuilt = totals, ''
if #kept == 7 then
  local kept_epoch, kept_seq = kept[1], kept[2]
  if epoch < kept_epoch then return {0, text(kept_epoch)} end
  if epoch == kept_epoch and seq == kept_seq then
    local answer = {1, kept_verdict, kept_rebuilt}
    for i = 1, 5 do answer[3 + i] = text(kept[2 + i]) end
    answer[9] = kept_tree
    return answer
  end
  -- The log is believed: two owners may have asked at one seq, or one asked again after a loss, and only one answer has
  -- been committed.
  if kept_seq == last_seq then
    for i = 1, 5 do if kept[2 + i] ~= totals[i] then rebuilt = text(kept_seq) end end
  else
    rebuilt = text(kept_seq)
  end
elseif last_seq ~= -1 then
  rebuilt = '-1'
end

-- Gone or stale: what is there goes, and a token stays.
local function lost()
  local here = home()
  local marked = redis.call('HMGET', KEYS[3], 'lost', 'home')
  if marked[1] and marked[2] == here then return {2, marked[1]} end
  local token = mint()
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[3], 'lost', token, 'home', here)
  redis.call('EXPIRE', KEYS[3], expiry)
  return {2, token}
end

local pool, child, drawn, room = nil, false, arguments(33, 5), {0, 0, 0, 0, 0}
if draw_nonce ~= '' then
  pool = pool_of(KEYS[3], draw_nonce)
  if not pool then return lost() end
  child = child_of(KEYS[3], run)
  if child == nil then return lost() end
  if child and (epoch < child.epoch or (epoch == child.epoch and seq < child.seq)) then return {0, text(child.epoch)} end
  if child and epoch == child.epoch and seq == child.seq and child.read == 0 then
    room = child.got
  -- Its log is behind what another owner was answered.
  elseif child and seq < child.seq then
    return lost()
  else
    local want = arguments(38, 5)
    for i = 1, 5 do
      local held = child and child.held[i] or 0
      -- The child's log has draws that the pool has not.
      if drawn[i] > held then return lost() end
      room[i] = math.min(want[i], math.max(0, pool.size[i] - (pool.sum[i] - held + drawn[i])))
    end
  end
end

local verdict = 0
for i = 1, 5 do used[i] = bounded(used[i] + settle[i]) end
for i = 1, 5 do
  if reserve[i] > 0 and used[i] + reserve[i] > math.min(limits[i], MAX) + room[i] then
    verdict = i
    break
  end
end
if verdict == 0 then
  for i = 1, 5 do used[i] = bounded(used[i] + reserve[i]) end
else
  room = {0, 0, 0, 0, 0}
end

if pool then
  local held = {}
  for i = 1, 5 do held[i] = drawn[i] + room[i] end
  -- Of the answers that were given at one place any may be committed there, and one is at the most.
  if child and seq == child.seq then
    for i = 1, 5 do held[i] = math.max(held[i], child.held[i]) end
  end
  keep_child(KEYS[3], run, pool, child, {epoch = epoch, seq = seq, held = held, got = room, read = 0})
  redis.call('EXPIRE', KEYS[3], expiry)
end
local opened = '-1'
if carve == 'open' and verdict == 0 then
  opened = mint()
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[2], 'home', home(), 'nonce', opened, 'size', pack(arguments(26, 5)), 'sum', '0 0 0 0 0')
  redis.call('EXPIRE', KEYS[2], expiry)
end

local tree = ''
if pool or carve ~= '' then tree = opened .. ' ' .. pack(room) end
local answer = {1, text(verdict), rebuilt}
for i = 1, 5 do answer[3 + i] = text(used[i]) end
answer[9] = tree
local words = {text(epoch), text(seq), unpack(answer, 4, 8)}
local value = table.concat({table.concat(words, ' '), answer[2], rebuilt, tree}, '|')
redis.call('SET', KEYS[1], value, 'EX', expiry)
-- Last: until here a server that is out of memory has refused, and nothing is changed.
if carve == 'close' then redis.call('UNLINK', KEYS[2]) end
return answer
