-- flags: allow-oom
-- args: pause (1) or resume (0)
-- replies: 1 where that changed something

if T.paused == (ARGV[3] == '1') then return 0 end
redis.call('HSET', K.meta, 'paused', ARGV[3])
T.paused = ARGV[3] == '1'
T.stir = not T.paused
return 1
