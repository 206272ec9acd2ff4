-- Leases one due webhook to a worker; if the worker dies, another gets it after the lease. The
-- message is stored at the first claim, because the job may expire before delivery. The webhook of a
-- job's end waits for the first attempt of the one of its start.
local lease_s, ttl_ms = unpack(ARGV)

local function tried(name)
  return not redis.call('ZSCORE', P .. 'due', name)
    or tonumber(redis.call('HGET', P .. 'hook:' .. name, 'attempts') or 0) > 0
end

for _, name in ipairs(due_entries(P .. 'due')) do
  local id, event = string.match(name, '^(%S+) (%S+)$')
  local hook = P .. 'hook:' .. name
  local message, url, body = unpack(redis.call('HMGET', hook, 'message', 'url', 'body'))
  local job = message and {} or redis.call('HGETALL', P .. 'job:' .. id)
  if not message and #job == 0 then
    redis.call('ZREM', P .. 'due', name)
  elseif event == 'prediction.started' or tried(id .. ' prediction.started') then
    redis.call('ZADD', P .. 'due', stamp(now + lease_s), name)
    if redis.call('HSETNX', hook, 'attempts', 0) == 1 then redis.call('PEXPIRE', hook, ttl_ms) end
    local attempts = tonumber(redis.call('HGET', hook, 'attempts'))
    return {id, event, attempts, message or '', url or '', body or '', job}
  end
end
return {}
