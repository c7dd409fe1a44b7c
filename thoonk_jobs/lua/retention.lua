-- Forgetting what nobody may ask for any more, a bounded part at a time.

function T.due(index, at)
  return redis.call('ZRANGEBYSCORE', index, '-inf', string.format('%.0f', at), 'LIMIT', 0, 500)
end

-- The finished jobs beyond keep_last lose their data, the one whose keep ends first before the others; those that a
-- process still waits for are not among them.
function T.trim_finished()
  local over = redis.call('ZCARD', K.finished) - T.number_setting('keep_last', 10000)
  if over <= 0 then return end
  local ids = redis.call('ZRANGE', K.finished, 0, math.min(over, 500) - 1)
  T.load(ids)
  for _, id in ipairs(ids) do T.strip(id, T.jobs[id]) end
end

-- The oldest stalled jobs beyond keep_stalled are retracted.
function T.trim_stalled()
  local over = redis.call('ZCARD', K.stalled) - T.number_setting('keep_stalled', 100000)
  if over <= 0 then return end
  local ids = redis.call('ZRANGE', K.stalled, 0, math.min(over, 500) - 1)
  T.load(ids)
  for _, id in ipairs(ids) do
    if T.jobs[id] and T.jobs[id][STATE] == STALLED then T.move(id, 'retract', 'more are stalled than keep_stalled allows') end
  end
end

-- Drops the data of what was kept long enough, and the records of what nobody may repeat; true if there may be more.
function T.forget_finished(at)
  local over, unheard, gone = T.due(K.finished, at), T.due(K.unheard, at), T.due(K.bare, at)
  for _, ids in ipairs({over, unheard}) do
    T.load(ids)
    for _, id in ipairs(ids) do
      if T.jobs[id][STATE] == FINISHED and T.jobs[id][BARE] == 0 then T.strip(id, T.jobs[id]) end
    end
  end
  T.load(gone)
  for _, id in ipairs(gone) do
    if T.jobs[id][STATE] == FINISHED and T.jobs[id][BARE] == 1 then T.move(id, 'purge') end
  end
  return math.max(#over, #unheard, #gone) == 500
end

-- Along with another request: only when a second's worth has gathered, so that one entry of the log carries many; by
-- a clock that did not jump. True if there may be more. What meta has may be too early a moment, never too late a one.
function T.sweep()
  if not T.trusted or T.forget > T.now - 1000 then return false end
  local more = T.soonest_of(K.finished, K.unheard, K.bare) <= T.now - 1000 and T.forget_finished(T.now)
  T.commit()
  T.forget, T.dirty = math.floor(T.soonest_of(K.finished, K.unheard, K.bare)), true
  return more
end
