-- Writing what the moves changed, then telling: the log, the subscribers, those who wait.

local function write_places()
  local removed, added, keys = {}, {}, {}
  local function list(lists, key)
    if not lists[key] then
      lists[key] = {}
      keys[key] = true
    end
    return lists[key]
  end
  for _, id in ipairs(TOUCHED) do
    local kept = {}
    for _, place in ipairs(places(id, JOBS[id])) do
      local key, entries = place[1], list(added, place[1])
      kept[key] = place[3]
      entries[#entries + 1] = place[2]
      entries[#entries + 1] = place[3]
    end
    for _, place in ipairs(BEFORE[id]) do
      if kept[place[1]] ~= place[3] then
        local entries = list(removed, place[1])
        entries[#entries + 1] = place[3]
      end
    end
  end
  for key in pairs(keys) do
    if removed[key] then spread('ZREM', key, removed[key]) end
    if added[key] then spread('ZADD', key, added[key], 2) end
  end
  return added
end

local function write_records()
  local kept, dropped = {}, {}
  for _, id in ipairs(TOUCHED) do
    if JOBS[id][STATE] == ABSENT then
      dropped[#dropped + 1] = id
    else
      kept[#kept + 1] = id
      kept[#kept + 1] = pack(JOBS[id])
    end
  end
  spread('HSET', K.record, kept, 2)
  spread('HDEL', K.record, dropped)
end

local function forget(key, prefix)
  redis.call('ZREMRANGEBYLEX', key, '[' .. prefix, '(' .. prefix .. '\255')
end

local function write_data()
  spread('HSET', K.payload, PAYLOADS, 2)
  spread('HSET', K.result, RESULTS, 2)
  spread('ZADD', K.watchers, WATCHERS, 2)
  local dropped = {}
  for _, id in ipairs(TOUCHED) do
    local job = JOBS[id]
    if GONE[id] then
      dropped[#dropped + 1] = id
      if job[REPORTED] == 1 then forget(K.reports, frame(id)) end
      if job[WATCHED] == 1 then forget(K.watchers, frame(id)) end
    end
  end
  spread('HDEL', K.payload, dropped)
  spread('HDEL', K.result, dropped)
  for name, id in pairs(NAMES) do
    if id then redis.call('HSET', K.names, name, id) else redis.call('HDEL', K.names, name) end
  end
end

-- One log entry and one notice for each row, carrying all its jobs; a job's number is the entry's plus its place.
local function announce()
  for _, row in ipairs(NOTES) do
    local noted, first = NOTES[row], EVENT + 1
    local ids = table.concat(noted.ids)
    EVENT = EVENT + #noted.ids
    local entry = {string.format('%.0f-0', first), 'row', row, 'at', string.format('%.0f', WALL), 'by', CALLER, 'ids', ids}
    if noted.reasoned then
      entry[#entry + 1] = 'reasons'
      entry[#entry + 1] = table.concat(noted.reasons)
    end
    local oldest = math.max(0, EVENT - setting('keep_events', 10000))
    redis.call('XADD', K.events, 'MINID', '~', string.format('%.0f', oldest), unpack(entry))
    redis.call('SPUBLISH', BASE .. ':events', struct.pack('>dB', first, (EDGES[row] or REPORTS[row]).code) .. ids)
  end
end

local function write_meta()
  local changed = {}
  for field, value in pairs({seq = SEQ, token = LAST_TOKEN, event = EVENT}) do
    changed[#changed + 1] = field
    changed[#changed + 1] = string.format('%.0f', value)
  end
  redis.call('HSET', K.meta, unpack(changed))
end

local function notify()
  for _, process in ipairs(TOLD) do
    for kind, news in pairs(TOLD[process]) do
      if #news > 0 then redis.call('SPUBLISH', BASE .. ':p:' .. process, kind .. table.concat(news)) end
    end
  end
end

-- Whoever waits for jobs looks again, once something may be there or may be due earlier.
local function wake()
  local waiters = redis.call('ZRANGE', K.waiters, 0, -1)
  if #waiters == 0 then return end
  redis.call('DEL', K.waiters)
  for _, process in ipairs(waiters) do redis.call('SPUBLISH', BASE .. ':p:' .. process, 'w') end
end

local function commit()
  if #TOUCHED + #NOTES == 0 then return end
  local added = write_places()
  write_records()
  write_data()
  announce()
  write_meta()
  notify()
  if added[K.scheduled] or added[K.dated] or (added[K.available] and not PAUSED) then wake() end
  BEFORE, TOUCHED, NOTES, TOLD = {}, {}, {}, {}
  CHANGED, HELD_BY, WATCHERS, NAMES, PAYLOADS, RESULTS, GONE = {}, {}, {}, {}, {}, {}, {}
end
