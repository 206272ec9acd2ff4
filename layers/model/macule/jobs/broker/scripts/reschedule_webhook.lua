-- Reschedules a webhook; deletes it if there is no pause.
local name, pause_s = unpack(ARGV)
if pause_s == '' then
  redis.call('ZREM', P .. 'due', name)
  redis.call('DEL', P .. 'hook:' .. name)
else
  redis.call('ZADD', P .. 'due', stamp(now + pause_s), name)
  redis.call('HINCRBY', P .. 'hook:' .. name, 'attempts', 1)
end
return 1
