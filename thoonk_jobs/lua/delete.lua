-- flags: allow-oom
-- args: none
-- replies: 0 once nothing of the queue is left; else the number of live jobs, to be retracted first

local live = 0
for _, key in ipairs({'scheduled', 'dated', 'waiting', 'parked', 'available', 'claimed', 'stalled'}) do
  live = live + redis.call('ZCARD', K[key])
end
if live == 0 then
  T.wake() -- those who wait register anew
  redis.call('UNLINK', unpack(KEYS))
end
return live
