-- Puts a lost pool together again, for the one that brings its token.
--
-- KEYS[1]  the pool
-- ARGV     nonce, token, expiry in seconds, size, sum, then run and share of each child

local marked = redis.call('HMGET', KEYS[1], 'lost', 'home')
if marked[1] ~= ARGV[2] or marked[2] ~= home() then return 0 end
redis.call('HSET', KEYS[1], 'nonce', ARGV[1], 'size', ARGV[4], 'sum', ARGV[5])
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], 'c:' .. ARGV[i], ARGV[i + 1]) end
redis.call('HDEL', KEYS[1], 'lost')
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
