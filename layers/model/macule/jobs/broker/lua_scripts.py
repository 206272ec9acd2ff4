"""Lua scripts that change jobs in Redis or Valkey, each atomically.

Only these scripts change a job's state. Times are the server's, so that the clocks of machines may
differ. Keys under `macule:1:`

    job:ID        hash: status, asked, owner, times, outcome, attempts, taker; see the scripts
    image:ID      the image, until the job ends
    alive:ID      the worker of the job; expires unless renewed
    gone          sorted set: "ID OWNER" of jobs, by when their id is forgotten
    key:DIGEST    hash: the job of an Idempotency-Key, and the fingerprint of its request
    open          sorted set: jobs that have not ended, by when to check them
    held          sorted set: "ID BYTES ROOM", the bytes of each job, and those reserved for its
                  outcome, by when they expire
    sums          hash: both of these over all jobs, `bytes` and `room`
    due           sorted set: webhooks, "ID EVENT", by when to deliver them
    hook:NAME     hash: message, URL, body and attempts of a webhook
    parked        list: jobs failed because their workers died, newest first
    celery:queue  list: Celery's messages, each with only the id of a job
"""

PREFIX = "macule:1:"
CELERY = f"{PREFIX}celery:"
QUEUE = "queue"
JOB_BYTES, WEBHOOK_BYTES = 2048, 8192  # a job without image and outcome; a webhook that waits
EXPIRED_ID_BYTES, MAX_EXPIRED_IDS = (
    256,
    10_000,
)  # an id with its owner; ids of deleted jobs
EXPIRED_IDS_DIVISOR = 16  # those ids take at most max_bytes / 16
FREE_MEMORY_DIVISOR = 16  # maxmemory / 16 stays free for requests in progress

# Scripts that end jobs run even if memory has run out (allow-oom): they free more than they take.
COMMON = """
local P = '%s'
local QUEUE = '%s'
local JOB_BYTES, HOOK_BYTES = %d, %d
local ENDED = {succeeded = true, failed = true, canceled = true}
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6

local function stamp(seconds) return string.format('%%.6f', seconds) end

-- Return the entries of a sorted set that are due, at most 100.
local function due_entries(set)
  return redis.call('ZRANGEBYSCORE', set, '-inf', stamp(now), 'LIMIT', 0, 100)
end

-- Count the bytes of a job, including ROOM reserved for its outcome. Expires after ttl_ms.
local function uncount(entry)
  local id, bytes, room = string.match(entry, '^(%%S+) (%%d+) (%%d+)$')
  if redis.call('ZREM', P .. 'held', entry) == 1 then
    redis.call('HINCRBY', P .. 'sums', 'bytes', -bytes)
    redis.call('HINCRBY', P .. 'sums', 'room', -room)
  end
end

local function count(id, bytes, room, ttl_ms)
  local job = P .. 'job:' .. id
  local before = redis.call('HGET', job, 'held')
  if before then uncount(before) end
  local entry = string.format('%%s %%d %%d', id, bytes, room)
  redis.call('HSET', job, 'held', entry)
  redis.call('ZADD', P .. 'held', stamp(now + ttl_ms / 1000), entry)
  redis.call('HINCRBY', P .. 'sums', 'bytes', string.format('%%d', bytes))
  redis.call('HINCRBY', P .. 'sums', 'room', string.format('%%d', room))
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
""" % (PREFIX, CELERY + QUEUE, JOB_BYTES, WEBHOOK_BYTES)  # noqa: UP031
ALLOW_OOM = "#!lua flags=allow-oom" + COMMON

PUT = (
    "#!lua"
    + COMMON
    + """
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
"""
)

CANCEL = (
    ALLOW_OOM
    + """
local id, owner = unpack(ARGV)
local job = P .. 'job:' .. id
if redis.call('HGET', job, 'owner') ~= owner then return {'none', {}} end
local ended = ENDED[redis.call('HGET', job, 'status')]
if not ended then conclude(id, 'canceled', '') end
return {ended and 'ended' or 'canceled', redis.call('HGETALL', job)}
"""
)

TAKE = (
    ALLOW_OOM
    + """
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
"""
)

# Prefix of scripts that act only if the job still belongs to this worker.
OWNED = (
    ALLOW_OOM
    + """
local id, me = unpack(ARGV)
local job = P .. 'job:' .. id
if redis.call('HGET', job, 'taker') ~= me then return 0 end
"""
)

FINISH = (
    OWNED
    + """
conclude(id, ARGV[3], ARGV[4])
return 1
"""
)

RENEW = (
    OWNED
    + """
redis.call('SET', P .. 'alive:' .. id, me, 'PX', ARGV[3] * 1000)
return 1
"""
)

REQUEUE = (
    OWNED
    + """
redis.call('DEL', P .. 'alive:' .. id)
redis.call('HSET', job, 'taker', '')
redis.call('HINCRBY', job, 'attempts', -1)
redis.call('HINCRBY', job, 'returned', 1)
redis.call('ZADD', P .. 'open', stamp(now + ARGV[3]), id)
return 1
"""
)

# Sends the message of a job again if no worker has it and the queue has no message for it: the
# worker died or requeued it, or a killed server lost its last second.
SWEEP = (
    ALLOW_OOM
    + """
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
"""
)

# Leases one due webhook to a worker; if the worker dies, another gets it after the lease. The
# message is stored at the first claim, because the job may expire before delivery. The webhook of a
# job's end waits for the first attempt of the one of its start.
CLAIM_WEBHOOK = (
    ALLOW_OOM
    + """
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
"""
)

# Stores the message of a webhook.
SAVE_WEBHOOK = (
    ALLOW_OOM
    + """
local name, message, url, body = unpack(ARGV)
redis.call('HSET', P .. 'hook:' .. name, 'message', message, 'url', url, 'body', body)
return 1
"""
)

# Reschedules a webhook; deletes it if there is no pause.
RESCHEDULE_WEBHOOK = (
    ALLOW_OOM
    + """
local name, pause_s = unpack(ARGV)
if pause_s == '' then
  redis.call('ZREM', P .. 'due', name)
  redis.call('DEL', P .. 'hook:' .. name)
else
  redis.call('ZADD', P .. 'due', stamp(now + pause_s), name)
  redis.call('HINCRBY', P .. 'hook:' .. name, 'attempts', 1)
end
return 1
"""
)
