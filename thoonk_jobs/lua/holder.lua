-- flags: no-writes
-- args: (unique name)*
-- replies: the id of the live job that has each; nothing where there is none

return redis.call('HMGET', K.names, unpack(ARGV, 3))
