-- Acts only if the job still belongs to this worker.
local id, me = unpack(ARGV)
local job = P .. 'job:' .. id
if redis.call('HGET', job, 'taker') ~= me then return 0 end
conclude(id, ARGV[3], ARGV[4])
return 1
