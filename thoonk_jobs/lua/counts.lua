-- flags: no-writes
-- args: none
-- replies: the number of jobs in each state, by number of state from 1; then 1 where the queue is paused

local function count(key) return redis.call('ZCARD', key) end
local function readable(key) return redis.call('ZCOUNT', key, string.format('(%.0f', T.now), '+inf') end

return {
  count(K.scheduled) + count(K.dated),
  count(K.waiting) + count(K.parked),
  count(K.available),
  count(K.claimed),
  count(K.stalled),
  readable(K.finished) + readable(K.unheard),
  T.paused and 1 or 0,
}
