-- flags: no-writes
-- args: number after which to begin, or nothing for the present one; most bytes of ids and reasons, in one entry more
-- replies: {number of the last event, when the queue was made, number of the first event that is kept or comes next,
-- (number of the first event of an entry, its row, when, by whom, its ids, its reasons or nothing)*}

local after, room = tonumber(ARGV[3]), tonumber(ARGV[4])
local born = tonumber(redis.call('HGET', K.meta, 'born') or 0)

local function number(entry) return tonumber(string.match(entry[1], '^%d+')) end

local function fields(entry)
  local found, list = {}, entry[2]
  for at = 1, #list, 2 do found[list[at]] = list[at + 1] end
  return found
end

local oldest = redis.call('XRANGE', K.events, '-', '+', 'COUNT', 1)[1]
local answer = {T.event, born, oldest and number(oldest) or T.event + 1}
if not after or after >= T.event then return answer end

-- The entry that has the next event may begin before it.
local next_one = string.format('%.0f', after + 1)
local holder = redis.call('XREVRANGE', K.events, next_one, '-', 'COUNT', 1)[1]
local from = holder and holder[1] or next_one
while room > 0 do
  local entries = redis.call('XRANGE', K.events, from, '+', 'COUNT', 20)
  for _, entry in ipairs(entries) do
    local found = fields(entry)
    room = room - #found.ids - #(found.reasons or '')
    local last = #answer
    answer[last + 1], answer[last + 2], answer[last + 3] = number(entry), found.row, found.at
    answer[last + 4], answer[last + 5], answer[last + 6] = found.by, found.ids, found.reasons or ''
    from = '(' .. entry[1]
    if room <= 0 then return answer end
  end
  if #entries < 20 then return answer end
end
return answer
