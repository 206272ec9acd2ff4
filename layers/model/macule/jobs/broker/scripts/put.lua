local id, asked, owner, events, key, print, image, max_jobs, ttl_ms, max_wait_ms, gone_ms,
  sweep_after_s, message, room, max_bytes, margin, gone_bytes, max_gone, gone_part = unpack(ARGV)
local job = P .. 'job:' .. id
if redis.call('EXISTS', job) == 1 then  -- a retry: the first reply was lost
  return {'new', redis.call('HGET', job, 'created_at')}
end
if key ~= '' then
  local known, before = unpack(redis.call('HMGET', P .. 'key:' .. key, 'id', 'print'))
  local found = known and redis.call('HGETALL', P .. 'job:' .. known) or {}
  if #found > 0 then return {'known', known, before, found} end
end
local waiting = redis.call('ZCARD', P .. 'open')
if waiting >= tonumber(max_jobs) then
  for _, each in ipairs(redis.call('ZRANGE', P .. 'open', 0, -1)) do
    if redis.call('EXISTS', P .. 'job:' .. each) == 0 then redis.call('ZREM', P .. 'open', each) end
  end
  waiting = redis.call('ZCARD', P .. 'open')
  if waiting >= tonumber(max_jobs) then return {'full', waiting} end
end
for _, entry in ipairs(due_entries(P .. 'held')) do uncount(entry) end
local gone, stored = P .. 'gone', redis.call('ZCARD', P .. 'held')
redis.call('ZREMRANGEBYSCORE', gone, '-inf', stamp(now))
max_gone = math.min(max_gone, math.floor(max_bytes / gone_part / gone_bytes))
redis.call('ZREMRANGEBYRANK', gone, 0, -1 - stored - max_gone)
local bytes = string.len(image) + JOB_BYTES + room
local sums = redis.call('HMGET', P .. 'sums', 'bytes', 'room')
local held = (sums[1] or 0) + HOOK_BYTES * redis.call('ZCARD', P .. 'due')
  + gone_bytes * redis.call('ZCARD', gone)
if held + bytes > tonumber(max_bytes) then
  local next = redis.call('ZRANGE', P .. 'held', 0, 0, 'WITHSCORES')[2]
  local left_s = waiting == 0 and next and math.ceil(next - now) or 0
  return {'bytes', waiting, held, bytes, left_s}
end
local info = redis.pcall('INFO', 'memory')
local function figure(name) return tonumber(string.match(info, name .. ':(%d+)') or 0) end
local limit = type(info) == 'string' and figure('maxmemory') or 0
if limit > 0 then
  local free = limit - figure('used_memory') + figure('mem_not_counted_for_evict')
  local needed = bytes + (sums[2] or 0) + limit / margin
  if needed > free then return {'memory', math.floor(needed), math.max(0, free)} end
end
redis.call('SET', P .. 'image:' .. id, image, 'PX', max_wait_ms)
redis.call('HSET', job, 'status', 'starting', 'asked', asked, 'owner', owner, 'events', events,
  'key', key, 'created_at', stamp(now), 'attempts', 0, 'returned', 0, 'taker', '',
  'ttl_ms', ttl_ms, 'gone_ms', gone_ms)
count(id, bytes, room, max_wait_ms)
redis.call('PEXPIRE', job, max_wait_ms)
redis.call('ZADD', gone, stamp(now + (max_wait_ms + gone_ms) / 1000), id .. ' ' .. owner)
if key ~= '' then
  redis.call('HSET', P .. 'key:' .. key, 'id', id, 'print', print)
  redis.call('PEXPIRE', P .. 'key:' .. key, max_wait_ms)
end
redis.call('ZADD', P .. 'open', stamp(now + sweep_after_s), id)
redis.call('LPUSH', QUEUE, message)
return {'new', stamp(now)}
