-- Forgetting what nobody may ask for any more, a bounded part at a time.

local AT_ONCE = 500

local function due(index, at)
  return redis.call('ZRANGEBYSCORE', index, '-inf', string.format('%.0f', at), 'LIMIT', 0, AT_ONCE)
end

-- The finished jobs beyond keep_last lose their data, the one whose keep ends first before the others.
local function trim_finished()
  local over = redis.call('ZCARD', K.finished) - setting('keep_last', 10000)
  if over <= 0 then return end
  local ids = redis.call('ZRANGE', K.finished, 0, math.min(over, AT_ONCE) - 1)
  load(ids)
  for _, id in ipairs(ids) do
    if JOBS[id] and JOBS[id][STATE] == FINISHED and not watched(id, JOBS[id]) then strip(id, JOBS[id]) end
  end
end

-- The oldest stalled jobs beyond keep_stalled are retracted.
local function trim_stalled()
  local over = redis.call('ZCARD', K.stalled) - setting('keep_stalled', 100000)
  if over <= 0 then return end
  local ids = redis.call('ZRANGE', K.stalled, 0, math.min(over, AT_ONCE) - 1)
  load(ids)
  for _, id in ipairs(ids) do
    if JOBS[id] and JOBS[id][STATE] == STALLED then move(id, 'retract', 'more are stalled than keep_stalled allows') end
  end
end

-- Drops the data of what was kept long enough, and the records of what nobody may repeat; true if there may be more.
local function forget_finished(at)
  local stale, gone = due(K.finished, at), due(K.bare, at)
  load(stale)
  load(gone)
  for _, id in ipairs(stale) do
    if JOBS[id] and JOBS[id][STATE] == FINISHED and JOBS[id][BARE] == 0 then strip(id, JOBS[id]) end
  end
  for _, id in ipairs(gone) do
    if JOBS[id] and JOBS[id][STATE] == FINISHED and JOBS[id][BARE] == 1 then move(id, 'purge') end
  end
  return #stale == AT_ONCE or #gone == AT_ONCE
end

-- Along with another request: only when a second's worth has gathered, so that one entry of the log carries many.
local function sweep()
  local oldest = redis.call('ZRANGEBYSCORE', K.bare, '-inf', NOW - 1000, 'LIMIT', 0, 1)
  if #oldest > 0 then forget_finished(NOW) end
end
