-- purge: finished -> absent
-- with: retention
-- flags: allow-oom
-- args: nonce, which comes back on the channel of this process
-- replies: {the number under which this process waits or 0, 1 where the alarm is late}

redis.call('SPUBLISH', T.channel(T.caller), 'n' .. ARGV[3])
for _ = 1, T.trusted and 4 or 0 do
  local more = T.forget_finished(T.now)
  T.commit()
  if not more then break end
end
if not T.keeper then T.keeper, T.proclaim = T.caller, true end
return {tonumber(redis.call('ZSCORE', K.waiters, T.caller) or 0), T.alarm <= T.now and 1 or 0}
