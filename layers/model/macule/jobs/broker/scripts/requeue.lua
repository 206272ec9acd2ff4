-- Acts only if the job still belongs to this worker.
local id, me = unpack(ARGV)
local job = P .. 'job:' .. id
if redis.call('HGET', job, 'taker') ~= me then return 0 end
redis.call('DEL', P .. 'alive:' .. id)
redis.call('HSET', job, 'taker', '')
redis.call('HINCRBY', job, 'attempts', -1)
redis.call('HINCRBY', job, 'returned', 1)
redis.call('ZADD', P .. 'open', stamp(now + ARGV[3]), id)
return 1
