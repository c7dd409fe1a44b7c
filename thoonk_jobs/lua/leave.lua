-- flags: allow-oom
-- args: none
-- replies: 0

-- Another one keeps the time: who waits the longest, or who of the others is the first to act.
local function resign()
  T.keeper = redis.call('ZRANGE', K.waiters, 0, 0)[1]
  T.proclaim = true
  if not T.keeper and T.alarm < math.huge then T.alarm = T.now end
end

if redis.call('ZREM', K.waiters, T.caller) == 1 then
  T.in_line, T.dirty = T.in_line - 1, true
  redis.call('HDEL', K.room, T.caller)
end
T.untell(T.caller)
if T.keeper == T.caller then resign() end
return 0
