-- Sends the message of a job again if no worker has it and the queue has no message for it: the
-- worker died or requeued it, or a killed server lost its last second.
local sweep_after_s, most, died, message = unpack(ARGV)
local parked = {}
for _, entry in ipairs(due_entries(P .. 'held')) do uncount(entry) end
for _, id in ipairs(due_entries(P .. 'open')) do
  local taker = redis.call('HGET', P .. 'job:' .. id, 'taker')
  local left_ms = redis.call('PTTL', P .. 'alive:' .. id)
  if not taker then
    redis.call('ZREM', P .. 'open', id)
  elseif taker ~= '' and left_ms > 0 then
    redis.call('ZADD', P .. 'open', stamp(now + left_ms / 1000), id)
  elseif taker ~= '' and release_dead(id, tonumber(most), died) then
    table.insert(parked, id)
  else
    local text = string.gsub(message, 'JOB', id)
    if not redis.call('LPOS', QUEUE, text) then redis.call('RPUSH', QUEUE, text) end
    redis.call('ZADD', P .. 'open', stamp(now + sweep_after_s), id)
  end
end
return parked
