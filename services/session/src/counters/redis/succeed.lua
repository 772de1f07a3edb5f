-- The ordinary change of a run, of which its writer knows before what comes of it: nobody else has been here. advance.lua
-- judges every other.
--
-- KEYS[1]  halt:{root}:run
-- ARGV     the place that the writer expects, '' for none; what is kept from now on; expiry in seconds
-- Answer   1, or 0 when something else is kept, and nothing is changed

local kept = redis.call('GET', KEYS[1]) or ''
local place = ARGV[1]
if string.sub(kept, 1, #place) ~= place or (place == '' and kept ~= '') then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
