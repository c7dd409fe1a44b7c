-- purge: finished -> absent
-- with: limits, retention
-- flags: allow-oom
-- args: nonce, which comes back on the channel of this process
-- replies: {the number under which this process waits or 0, 1 where the alarm is late, when the queue was made,
-- the last event, jobs whose end or stall some process may not have heard}

redis.call('SPUBLISH', T.channel(T.caller), 'n' .. ARGV[3])
for _ = 1, T.trusted and 4 or 0 do
  local more = T.forget_finished(T.now)
  T.commit()
  if not more then break end
end
T.keep_time()
T.dirty = true -- it was here: a newcomer that finds a longer silence may be after a jump
return {
  tonumber(redis.call('ZSCORE', K.waiters, T.caller) or 0),
  T.alarm <= T.now and 1 or 0,
  tonumber(redis.call('HGET', K.meta, 'born') or 0),
  T.event,
  redis.call('ZCARD', K.unheard) + redis.call('ZCARD', K.stalled),
}
