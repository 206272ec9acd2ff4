local name, message, url, body = unpack(ARGV)
redis.call('HSET', P .. 'hook:' .. name, 'message', message, 'url', url, 'body', body)
return 1
