-- The start of every script. lua_scripts.py defines P, QUEUE, JOB_BYTES and HOOK_BYTES above it.
local ENDED = {succeeded = true, failed = true, canceled = true}
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6

local function stamp(seconds) return string.format('%.6f', seconds) end

-- Return the entries of a sorted set that are due, at most 100.
local function due_entries(set)
  return redis.call('ZRANGEBYSCORE', set, '-inf', stamp(now), 'LIMIT', 0, 100)
end

-- Count the bytes of a job, including ROOM reserved for its outcome. Expires after ttl_ms.
local function uncount(entry)
  local id, bytes, room = string.match(entry, '^(%S+) (%d+) (%d+)$')
  if redis.call('ZREM', P .. 'held', entry) == 1 then
    redis.call('HINCRBY', P .. 'sums', 'bytes', -bytes)
    redis.call('HINCRBY', P .. 'sums', 'room', -room)
  end
end

local function count(id, bytes, room, ttl_ms)
  local job = P .. 'job:' .. id
  local before = redis.call('HGET', job, 'held')
  if before then uncount(before) end
  local entry = string.format('%s %d %d', id, bytes, room)
  redis.call('HSET', job, 'held', entry)
  redis.call('ZADD', P .. 'held', stamp(now + ttl_ms / 1000), entry)
  redis.call('HINCRBY', P .. 'sums', 'bytes', string.format('%d', bytes))
  redis.call('HINCRBY', P .. 'sums', 'room', string.format('%d', room))
end

local function add_webhook(id, event)
  local events = redis.call('HGET', P .. 'job:' .. id, 'events')
  if string.find(events, event, 1, true) then
    redis.call('ZADD', P .. 'due', stamp(now), id .. ' ' .. event)
  end
end

local function conclude(id, status, outcome)
  local job = P .. 'job:' .. id
  redis.call('DEL', P .. 'image:' .. id, P .. 'alive:' .. id)
  redis.call('ZREM', P .. 'open', id)
  redis.call('HSET', job, 'status', status, 'ended_at', stamp(now), 'outcome', outcome, 'taker', '')
  local owner, key, ttl_ms, gone_ms =
    unpack(redis.call('HMGET', job, 'owner', 'key', 'ttl_ms', 'gone_ms'))
  count(id, string.len(outcome) + JOB_BYTES, 0, ttl_ms)
  redis.call('PEXPIRE', job, ttl_ms)
  if key ~= '' then redis.call('PEXPIRE', P .. 'key:' .. key, ttl_ms) end
  redis.call('ZADD', P .. 'gone', stamp(now + (ttl_ms + gone_ms) / 1000), id .. ' ' .. owner)
  add_webhook(id, 'prediction.completed')
end

-- Release a job whose worker died; return true if it failed after too many attempts.
local function release_dead(id, most, died)
  local job = P .. 'job:' .. id
  local attempts = tonumber(redis.call('HGET', job, 'attempts'))
  if attempts < most then
    redis.call('HSET', job, 'taker', '')
    return false
  end
  conclude(id, 'failed', died)
  local parked = cjson.encode({id = id, at = now, attempts = attempts, reason = cjson.decode(died)})
  redis.call('LPUSH', P .. 'parked', parked)
  redis.call('LTRIM', P .. 'parked', 0, 999)
  return true
end
