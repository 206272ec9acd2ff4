local id, owner = unpack(ARGV)
local job = P .. 'job:' .. id
if redis.call('HGET', job, 'owner') ~= owner then return {'none', {}} end
local ended = ENDED[redis.call('HGET', job, 'status')]
if not ended then conclude(id, 'canceled', '') end
return {ended and 'ended' or 'canceled', redis.call('HGETALL', job)}
