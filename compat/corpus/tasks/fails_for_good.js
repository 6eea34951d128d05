class Declined extends Error {
  code = "card_declined";
}
module.exports = async () => {
  throw new Declined("the card was declined");
};
