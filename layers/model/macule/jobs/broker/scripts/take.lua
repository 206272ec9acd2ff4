local id, me, lease_s, most, died = unpack(ARGV)
local job, alive = P .. 'job:' .. id, P .. 'alive:' .. id
local status, taker = unpack(redis.call('HMGET', job, 'status', 'taker'))
if not status or ENDED[status] then return {} end
if taker ~= me then
  if taker ~= '' then
    if redis.call('EXISTS', alive) == 1 then return {} end
    if release_dead(id, tonumber(most), died) then return {'parked'} end
  end
  redis.call('HSET', job, 'status', 'processing', 'taker', me)
  redis.call('HINCRBY', job, 'attempts', 1)
  local new = redis.call('HSETNX', job, 'started_at', stamp(now)) == 1
  if new then add_webhook(id, 'prediction.started') end
end
redis.call('SET', alive, me, 'PX', lease_s * 1000)
redis.call('ZADD', P .. 'open', stamp(now + lease_s), id)
return {redis.call('HGETALL', job), redis.call('GET', P .. 'image:' .. id)}
