-- Writing what the moves changed, then telling: the log, the subscribers, those who wait.

local function append(lists, key, first, second)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  local last = #list
  list[last + 1], list[last + 2] = first, second
end

local function write_other_places(id, job, removed, added)
  local before, after = T.others[id] or {}, T.other_places(id, job)
  for key, place in pairs(before) do
    if not after[key] or after[key][2] ~= place[2] then append(removed, key, place[2]) end
  end
  for key, place in pairs(after) do append(added, key, place[1], place[2]) end
end

local function write_places()
  local removed, added, place = {}, {}, T.place
  for _, id in ipairs(T.touched) do
    local job, before, was = T.jobs[id], T.index[id], T.member[id] or id
    local key, score, member = place(id, job)
    if before and (before ~= key or was ~= member) then append(removed, before, was) end
    if key then append(added, key, score, member) end
    if T.others[id] or job[EXPIRES] ~= '' or job[KEY] ~= '' then write_other_places(id, job, removed, added) end
  end
  for key, members in pairs(removed) do T.spread('ZREM', key, members) end
  for key, members in pairs(added) do T.spread('ZADD', key, members, 2) end
  return added
end

local function write_records()
  local kept, dropped, last, pack = {}, {}, 0, T.pack
  for _, id in ipairs(T.touched) do
    local job = T.jobs[id]
    if job[STATE] == ABSENT then
      dropped[#dropped + 1] = id
    else
      local packed = pack(job)
      kept[last + 1], kept[last + 2], T.packed[id] = id, packed, packed
      last = last + 2
    end
  end
  T.spread('HSET', K.record, kept, 2)
  T.spread('HDEL', K.record, dropped)
end

local function forget(key, prefix)
  redis.call('ZREMRANGEBYLEX', key, '[' .. prefix, '(' .. prefix .. '\255')
end

local function write_data()
  T.spread('HSET', K.payload, T.payloads, 2)
  T.spread('HSET', K.result, T.results, 2)
  T.spread('ZADD', K.watchers, T.watchers, 2)
  local dropped = {}
  for id in pairs(T.gone) do
    local job = T.jobs[id]
    dropped[#dropped + 1] = id
    if job[REPORTED] == 1 then forget(K.reports, T.frame(id)) end
    if job[WATCHED] == 1 then forget(K.watchers, T.frame(id)) end
    if job[STATE] == ABSENT then T.jobs[id] = false end
  end
  T.spread('HDEL', K.payload, dropped)
  T.spread('HDEL', K.result, dropped)
  for name, id in pairs(T.names) do
    if id then redis.call('HSET', K.names, name, id) else redis.call('HDEL', K.names, name) end
  end
end

-- One log entry and one notice for each row, carrying all its jobs; a job's number is the entry's plus its place. An
-- entry goes once none of its up to 500 events is among those to keep.
local function announce()
  local kept = T.number_setting('keep_events', 10000) + 500
  for _, row in ipairs(T.notes) do
    local noted, first = T.notes[row], T.event + 1
    local ids = table.concat(noted.ids)
    T.event = T.event + #noted.ids
    local entry = {string.format('%.0f-0', first), 'row', row, 'at', T.wall, 'by', T.caller, 'ids', ids}
    if noted.reasons then
      for at = 1, #noted.ids do noted.reasons[at] = noted.reasons[at] or '\0\0\0\0' end
      entry[10], entry[11] = 'reasons', table.concat(noted.reasons)
    end
    redis.call('XADD', K.events, 'MINID', '~', math.max(0, T.event - kept), unpack(entry))
    redis.call('SPUBLISH', T.base .. ':events', struct.pack('>dB', first, (EDGES[row] or T.reports[row]).code) .. ids)
  end
end

local function notify()
  for _, process in ipairs(T.tellings) do
    for kind, news in pairs(T.tellings[process]) do
      if #news > 0 then redis.call('SPUBLISH', T.channel(process), kind .. table.concat(news)) end
    end
  end
end

-- The least of a number and of the scores that were added to these indexes.
local function least(added, number, ...)
  for _, key in ipairs({...}) do
    local list = added[key] or {}
    for at = 1, #list, 2 do number = math.min(number, list[at]) end
  end
  return number
end

-- What was added may be wanted, be due before the alarm, or be forgotten before what is over already.
local function note_added(added)
  if added[K.available] then T.stir = true end
  T.soonest = math.ceil(least(added, T.soonest, K.scheduled, K.claimed, K.expiring))
  if added[K.dated] then T.due_at(least(added, math.huge, K.dated) + T.skew) end
  T.forget = math.floor(least(added, T.forget, K.finished, K.unheard, K.bare))
end

function T.commit()
  if #T.touched + #T.notes == 0 then return end
  T.dirty = true
  note_added(write_places())
  write_records()
  write_data()
  announce()
  notify()
  T.begin()
end
