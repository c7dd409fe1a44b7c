-- args: (name, value)*
-- replies: all settings that were ever set, name after name

if #ARGV > 2 then
  redis.call('HSET', K.settings, unpack(ARGV, 3))
  redis.call('HSET', K.meta, 'configured', 1)
end
return redis.call('HGETALL', K.settings)
