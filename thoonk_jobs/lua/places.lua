-- Where a job stands in the indexes is a function of its record, so an index and a record cannot disagree.

-- The index of its state: key, score, member.
function T.place(id, job)
  local state = job[STATE]
  if state == AVAILABLE then return K.available, -job[PRIORITY], struct.pack('>d', job[ORDER]) .. id end
  if state == CLAIMED then return K.claimed, job[UNTIL], id end
  if state == FINISHED then
    return job[BARE] == 1 and K.bare or job[UNHEARD] == 1 and K.unheard or K.finished, job[UNTIL], id
  end
  if state == SCHEDULED then return job[DATED] == 1 and K.dated or K.scheduled, job[UNTIL], id end
  if state == STALLED then return K.stalled, job[UNTIL], id end
  if state == WAITING then
    return job[HELD] == 2 and K.parked or K.waiting, -job[PRIORITY], struct.pack('>d', job[ORDER]) .. id
  end
end

-- Bytes that sort as the numbers do.
function T.sortable(number)
  local bytes = struct.pack('>d', number)
  if number >= 0 then return string.char(string.byte(bytes) % 128 + 128) .. string.sub(bytes, 2) end
  return (string.gsub(bytes, '.', function(byte) return string.char(255 - string.byte(byte)) end))
end

local function keyed(id, job)
  local state, prefix = job[STATE], T.frame(job[KEY])
  if state == CLAIMED then return prefix .. 'c' .. id end
  if state == SCHEDULED then return prefix .. 's' .. id end
  local class = state == AVAILABLE and 'r' or state == WAITING and (job[HELD] == 1 and 'v' or 'w')
  return class and prefix .. class .. T.sortable(-job[PRIORITY]) .. struct.pack('>d', job[ORDER]) .. id
end

-- What only some jobs have, key -> {score, member}: a deadline, a key.
function T.other_places(id, job)
  local state, found = job[STATE], {}
  if job[EXPIRES] ~= '' and T.live[state] and state ~= STALLED then
    found[K.expiring] = {tonumber(job[EXPIRES]), id}
  end
  local member = job[KEY] ~= '' and keyed(id, job)
  if member then found[K.keyed] = {0, member} end
  return found
end

-- To be called before a record changes in memory: from here on commit writes it.
function T.touch(id)
  if T.index[id] ~= nil then return end
  T.touched[#T.touched + 1], T.index[id] = id, false
  local job = T.jobs[id]
  if job[STATE] == ABSENT then return end
  local key, _, member = T.place(id, job)
  T.index[id] = key
  if member ~= id then T.member[id] = member end
  if job[EXPIRES] ~= '' or job[KEY] ~= '' then T.others[id] = T.other_places(id, job) end
end
