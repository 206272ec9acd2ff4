-- Acts only if the job still belongs to this worker.
local id, me = unpack(ARGV)
local job = P .. 'job:' .. id
if redis.call('HGET', job, 'taker') ~= me then return 0 end
redis.call('SET', P .. 'alive:' .. id, me, 'PX', ARGV[3] * 1000)
return 1
