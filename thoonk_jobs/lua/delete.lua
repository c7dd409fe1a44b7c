-- flags: allow-oom
-- args: none
-- replies: 0 once nothing of the queue is left; else the number of live jobs, to be retracted first

local live = 0
for _, key in ipairs({K.scheduled, K.dated, K.waiting, K.parked, K.available, K.claimed, K.stalled}) do
  live = live + redis.call('ZCARD', key)
end
if live == 0 then
  local waiters = redis.call('ZRANGE', K.waiters, 0, -1, 'WITHSCORES')
  for at = 1, #waiters, 2 do T.ring(waiters[at], waiters[at + 1]) end -- they register anew
  redis.call('UNLINK', unpack(KEYS))
  -- Nothing is left to be due, or to be written.
  T.alarm, T.soonest, T.forget, T.in_line = math.huge, math.huge, math.huge, 0
end
return live
