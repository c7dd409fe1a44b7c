-- flags: no-writes
-- args: none
-- replies: the keys that are blocked, the one that is free again first ahead

return redis.call('ZRANGEBYSCORE', K.blocked, string.format('(%.0f', T.now), '+inf')
